/**
 * Data sets as records, an object each, from the files that they are published in: a line of JSON each, an array in a
 * JSON file, or the rows of a Parquet file. Lines and rows are read a part at a time: their files may be larger than
 * any text of JavaScript. What is JSON is read once, from its beginning to its end, so that it may come from a pipe.
 */

import type { Hash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { codeOf, messageOf, WeightsmithError } from '../util/errors.js'
import { parseJson } from '../util/json.js'
import { readRows } from './parquet.js'

/** A record without its values of null, and where it is: `Line 3 of train.jsonl`. */
export interface DataRecord {
  values: Readonly<Record<string, unknown>>
  where: string
}

/**
 * The records of a file: of a `.parquet` file its rows, of a `.json` file that begins with a bracket the elements of
 * that array, of any other file its lines. `columns`: those that are read of a Parquet file. `hash` gets the bytes that
 * are read, but for a Parquet file, of which only parts are. Throws
 * ERR_WEIGHTSMITH_NOT_FOUND and _IO_READ, _ARGUMENT for what is not JSON and for a record that is no object, and
 * _FORMAT for a Parquet file that cannot be read.
 */
export async function* readRecords(
  file: string,
  columns: readonly string[],
  hash?: Pick<Hash, 'update'>,
): AsyncGenerator<DataRecord> {
  let count = 0
  try {
    if (file.endsWith('.parquet')) {
      for await (const row of readRows(file, columns)) yield recordOf(row, `Row ${++count} of ${file}`)
      return
    }
    const chunks = chunksOf(file, hash)
    // The beginning of a .json file tells an array from lines.
    const begin = file.endsWith('.json') ? await untilText(chunks) : []
    if (Buffer.concat(begin).toString('utf8').trimStart().startsWith('[')) {
      for await (const chunk of chunks) begin.push(chunk)
      for (const value of parsed(Buffer.concat(begin).toString('utf8'), file) as unknown[]) {
        yield recordOf(value, `Record ${++count} of ${file}`)
      }
      return
    }
    for await (const line of linesOf(begin, chunks)) {
      const where = `Line ${++count} of ${file}`
      if (line.trim() !== '') yield recordOf(parsed(line, where), where)
    }
  } catch (cause) {
    if (cause instanceof WeightsmithError) throw cause
    if (codeOf(cause) === 'ENOENT') {
      throw new WeightsmithError('ERR_WEIGHTSMITH_NOT_FOUND', `${file} not found.`, { cause, file })
    }
    const message = `${file} cannot be read: ${messageOf(cause)}.`
    throw new WeightsmithError('ERR_WEIGHTSMITH_IO_READ', message, { cause, file })
  }
}

/** What is wrong with a record: ERR_WEIGHTSMITH_ARGUMENT. `what` goes on from where it is. */
export function invalidRecord(where: string, what: string, cause?: unknown): WeightsmithError {
  return new WeightsmithError('ERR_WEIGHTSMITH_ARGUMENT', `${where} ${what}.`, { cause })
}

function recordOf(value: unknown, where: string): DataRecord {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw invalidRecord(where, 'should be an object')
  }
  return { values: withoutNulls(value) as Record<string, unknown>, where }
}

/** Tables have a null wherever a row has no value, in structs too. */
function withoutNulls(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(withoutNulls)
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(
    Object.entries(value).flatMap(([key, one]) =>
      one === null || one === undefined ? [] : [[key, withoutNulls(one)]],
    ),
  )
}

function parsed(text: string, where: string): unknown {
  try {
    return parseJson(text)
  } catch (cause) {
    throw invalidRecord(where, `is not JSON: ${messageOf(cause)}`, cause)
  }
}

async function* chunksOf(file: string, hash: Pick<Hash, 'update'> | undefined): AsyncGenerator<Buffer> {
  for await (const chunk of createReadStream(file) as AsyncIterable<Buffer>) {
    hash?.update(chunk)
    yield chunk
  }
}

/** Chunks up to the first one with something that is no blank. */
async function untilText(chunks: AsyncGenerator<Buffer>): Promise<Buffer[]> {
  const begin: Buffer[] = []
  for (;;) {
    const { value, done } = await chunks.next()
    if (done) return begin
    begin.push(value)
    if (value.toString('utf8').trim() !== '') return begin
  }
}

/** Lines of some chunks and of those that follow, without what ends them. */
async function* linesOf(begin: readonly Buffer[], chunks: AsyncGenerator<Buffer>): AsyncGenerator<string> {
  let rest: Buffer[] = []
  const linesIn = function* (chunk: Buffer) {
    let from = 0
    for (let end = chunk.indexOf(10); end >= 0; end = chunk.indexOf(10, from)) {
      yield Buffer.concat([...rest, chunk.subarray(from, end)]).toString('utf8')
      rest = []
      from = end + 1
    }
    rest.push(chunk.subarray(from))
  }
  for (const chunk of begin) yield* linesIn(chunk)
  for await (const chunk of chunks) yield* linesIn(chunk)
  yield Buffer.concat(rest).toString('utf8')
}
