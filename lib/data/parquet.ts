/**
 * Rows of Parquet files, which data sets are published as, by hyparquet with its decompressors (both MIT): of the
 * readers in JavaScript the one that is kept up and knows every compression in use. A file is bytes of a stranger: sizes
 * that it states are checked before anything is made that large, and what goes wrong in a file is an error of the file.
 */

import { type FileHandle, open } from 'node:fs/promises'
import type { Compressors, RowGroup, SchemaTree } from 'hyparquet'
import { messageOf, WeightsmithError } from '../util/errors.js'

/** A page of a column, and all columns of a group of rows that are read together, are no larger than that. */
const largestPage = 2 ** 28
const largestGroup = 2 ** 31

/**
 * Rows as objects of those of `columns` that the file has, a group of rows at a time; integers of 64 bits are BigInt.
 * Throws ERR_WEIGHTSMITH_FORMAT for a file that cannot be read.
 */
export async function* readRows(file: string, columns: readonly string[]): AsyncGenerator<Record<string, unknown>> {
  const handle = await open(file)
  try {
    const { size } = await handle.stat()
    const source = {
      byteLength: size,
      slice: (from: number, to = size) => {
        const bytes = slice(handle, from, to, size)
        // The library may fail before it asks for them.
        bytes.catch(() => undefined)
        return bytes
      },
    }
    const [{ parquetMetadataAsync, parquetReadObjects, parquetSchema }, packed] = await Promise.all([
      import('hyparquet'),
      import('hyparquet-compressors'),
    ])
    const compressors = limited(packed.compressors)
    const metadata = await formatted(file, () => parquetMetadataAsync(source))
    const tree = await formatted(file, async () => parquetSchema(metadata))
    const leaves = leavesOf(tree)
    const names = tree.children.map(({ element }) => element.name).filter((name) => columns.includes(name))
    if (names.length === 0) throw refused(file, `it has none of the columns ${columns.join(', ')}`)
    let rowStart = 0
    for (const group of metadata.row_groups) {
      const rowEnd = rowStart + Number(group.num_rows)
      const part = { rowStart, rowEnd }
      yield* await formatted(file, () => {
        checkGroup(group, leaves, size)
        return parquetReadObjects({ file: source, metadata, columns: names, compressors, ...part })
      })
      rowStart = rowEnd
    }
  } finally {
    await handle.close()
  }
}

async function slice(handle: FileHandle, from: number, to: number, size: number): Promise<ArrayBuffer> {
  if (!(from >= 0 && from <= to && to <= size)) throw new Error(`it names bytes ${from} to ${to}, but has ${size}`)
  const bytes = new Uint8Array(to - from)
  const { bytesRead } = await handle.read(bytes, 0, bytes.length, from)
  if (bytesRead < bytes.length) throw new Error(`it ends at byte ${from + bytesRead}`)
  return bytes.buffer
}

/** Paths of columns that have values, in the order of the file. */
function leavesOf({ path, children }: SchemaTree): string[] {
  return children.length === 0 ? [path.join('.')] : children.flatMap(leavesOf)
}

/**
 * Throws an Error for a group that states sizes which it cannot have, or other columns than the schema: the library
 * would begin to read them, and their failures would be nobody's.
 */
function checkGroup({ columns, num_rows: rows }: RowGroup, leaves: readonly string[], size: number): void {
  const sum = (of: 'total_compressed_size' | 'total_uncompressed_size') =>
    columns.reduce((total, { meta_data: column }) => total + Number(column?.[of] ?? 0), 0)
  const bytes = sum('total_uncompressed_size')
  if (!(sum('total_compressed_size') <= size && bytes <= largestGroup && rows <= largestGroup)) {
    throw new Error(`a group of its rows states ${bytes} bytes in ${rows} rows`)
  }
  const paths = columns.map(({ meta_data: column }) => column?.path_in_schema.join('.'))
  if (new Set(paths).size < paths.length || paths.some((path, i) => path !== leaves[i])) {
    throw new Error('a group of its rows has other columns than its schema')
  }
}

function limited(compressors: Compressors): Compressors {
  return Object.fromEntries(
    Object.entries(compressors).map(([name, decompress]) => [
      name,
      (input: Uint8Array, length: number) => {
        if (!(length >= 0 && length <= largestPage)) throw new Error(`a page of it states ${length} bytes`)
        return decompress(input, length)
      },
    ]),
  )
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
