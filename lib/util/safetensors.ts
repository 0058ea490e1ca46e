/** The header of a safetensors file: 8 bytes of length, then JSON padded with blanks to a multiple of 8 bytes. */

export interface HeaderTensor {
  name: string
  dtype: string
  shape: readonly number[]
  bytes: number
}

/**
 * The header of a file that has these tensors behind it one after the other, and where each of them begins in the file.
 */
export function safetensorsHeader(
  tensors: readonly HeaderTensor[],
  metadata: Readonly<Record<string, string>> = {},
): { header: Uint8Array<ArrayBuffer>; begins: number[]; size: number } {
  let end = 0
  const begins: number[] = []
  // As text, because an object would have names that are whole numbers first.
  const entries = tensors.map(({ name, dtype, shape, bytes }) => {
    const begin = end
    begins.push(begin)
    end += bytes
    return `${JSON.stringify(name)}:{"dtype":"${dtype}","shape":[${shape}],"data_offsets":[${begin},${end}]}`
  })
  const first = `"__metadata__":${JSON.stringify({ format: 'pt', ...metadata })}`
  const json = Buffer.from(`{${[first, ...entries].join(',')}}`, 'utf8')
  const start = 8 + Math.ceil(json.length / 8) * 8
  const header = Buffer.alloc(start, ' ')
  header.writeBigUInt64LE(BigInt(start - 8), 0)
  json.copy(header, 8)
  return { header: new Uint8Array(header), begins: begins.map((begin) => start + begin), size: start + end }
}
