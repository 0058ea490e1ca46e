/**
 * Data sets as records, an object each, from the files that they are published in: a line of JSON each, an array in a
 * JSON file, or the rows of a Parquet file. Lines and rows are read a part at a time: their files may be larger than
 * any text of JavaScript.
 */

import { createReadStream } from 'node:fs'
import { readFile } from 'node:fs/promises'
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
 * that array, of any other file its lines. `columns`: those that are read of a Parquet file. Throws
 * ERR_WEIGHTSMITH_NOT_FOUND and _IO_READ, _ARGUMENT for what is not JSON and for a record that is no object, and
 * _FORMAT for a Parquet file that cannot be read.
 */
export async function* readRecords(file: string, columns: readonly string[]): AsyncGenerator<DataRecord> {
  let count = 0
  try {
    if (file.endsWith('.parquet')) {
      for await (const row of readRows(file, columns)) yield recordOf(row, `Row ${++count} of ${file}`)
    } else if (file.endsWith('.json') && (await beginsWithBracket(file))) {
      for (const value of parsed(await readFile(file, 'utf8'), file) as unknown[]) {
        yield recordOf(value, `Record ${++count} of ${file}`)
      }
    } else {
      for await (const line of linesOf(file)) {
        const where = `Line ${++count} of ${file}`
        if (line.trim() !== '') yield recordOf(parsed(line, where), where)
      }
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

async function beginsWithBracket(file: string): Promise<boolean> {
  for await (const line of linesOf(file)) if (line.trim() !== '') return line.trimStart().startsWith('[')
  return false
}

/** Lines without what ends them. */
async function* linesOf(file: string): AsyncGenerator<string> {
  let rest: Buffer[] = []
  for await (const chunk of createReadStream(file) as AsyncIterable<Buffer>) {
    let from = 0
    for (let end = chunk.indexOf(10); end >= 0; end = chunk.indexOf(10, from)) {
      yield Buffer.concat([...rest, chunk.subarray(from, end)]).toString('utf8')
      rest = []
      from = end + 1
    }
    rest.push(chunk.subarray(from))
  }
  yield Buffer.concat(rest).toString('utf8')
}
