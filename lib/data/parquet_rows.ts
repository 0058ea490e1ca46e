/**
 * Rows of Parquet files by hyparquet with its decompressors (both MIT): of the readers in JavaScript the one that is
 * kept up and knows every compression in use. What goes wrong in a file is an error of the file. Runs in a thread
 * (`readRows`), as a file may make it count for as long as it likes.
 */

import { type FileHandle, open } from 'node:fs/promises'
import type { RowGroup, SchemaTree } from 'hyparquet'
import { messageOf, WeightsmithError } from '../util/errors.js'

/** Values by the names of their columns; integers of 64 bits are BigInt. */
export type Row = Record<string, unknown>

/**
 * Rows as objects of those of `columns` that the file has, a group of rows at a time.
 * Throws ERR_WEIGHTSMITH_FORMAT for a file that cannot be read.
 */
export async function* decodeRows(file: string, columns: readonly string[]): AsyncGenerator<Row[]> {
  const handle = await open(file)
  try {
    const { size } = await handle.stat()
    const source = {
      byteLength: size,
      slice: (from: number, to = size) => {
        const bytes = slice(handle, from, to)
        // The library may fail before it asks for them.
        bytes.catch(() => undefined)
        return bytes
      },
    }
    const [{ parquetMetadataAsync, parquetReadObjects, parquetSchema }, packed] = await Promise.all([
      import('hyparquet'),
      import('hyparquet-compressors'),
    ])
    // Theirs makes whatever a frame holds; a page says how large it is.
    const zstd = (input: Uint8Array, length: number) => packed.decompressZstd(input, new Uint8Array(length))
    const compressors = { ...packed.compressors, ZSTD: zstd }
    const metadata = await formatted(file, () => parquetMetadataAsync(source))
    const tree = await formatted(file, async () => parquetSchema(metadata))
    const leaves = leavesOf(tree)
    const names = tree.children.map(({ element }) => element.name).filter((name) => columns.includes(name))
    if (names.length === 0) throw refused(file, `it has none of the columns ${columns.join(', ')}`)
    let rowStart = 0
    for (const group of metadata.row_groups) {
      const rowEnd = rowStart + Number(group.num_rows)
      const part = { rowStart, rowEnd }
      yield await formatted(file, () => {
        checkGroup(group, leaves)
        return parquetReadObjects({ file: source, metadata, columns: names, compressors, ...part })
      })
      rowStart = rowEnd
    }
  } finally {
    await handle.close()
  }
}

async function slice(handle: FileHandle, from: number, to: number): Promise<ArrayBuffer> {
  const bytes = new Uint8Array(to - from)
  const { bytesRead } = await handle.read(bytes, 0, bytes.length, from)
  if (bytesRead < bytes.length) throw new Error(`it ends before byte ${to}, which it names`)
  return bytes.buffer
}

/** Paths of columns that have values, in the order of the file. */
function leavesOf({ path, children }: SchemaTree): string[] {
  return children.length === 0 ? [path.join('.')] : children.flatMap(leavesOf)
}

/**
 * Throws an Error for a group that has other columns than the schema: the library would begin to read them, and their
 * failures would be nobody's.
 */
function checkGroup({ columns }: RowGroup, leaves: readonly string[]): void {
  const paths = columns.map(({ meta_data: column }) => column?.path_in_schema.join('.'))
  if (new Set(paths).size < paths.length || paths.some((path, i) => path !== leaves[i])) {
    throw new Error('a group of its rows has other columns than its schema')
  }
}

async function formatted<T>(file: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work()
  } catch (cause) {
    throw refused(file, messageOf(cause), cause)
  }
}

function refused(file: string, why: string, cause?: unknown): WeightsmithError {
  const message = `${file} cannot be read as Parquet: ${why}.`
  return new WeightsmithError('ERR_WEIGHTSMITH_FORMAT', message, { cause, file })
}
