/** Files of NumPy (.npy): a header in Python's words, then the elements, or a pickle of an array of objects. */

import { WeightsmithError } from '../../util/errors.js'
import { readSmall } from '../small.js'
import { NumpyArray, NumpyDtype, numpyGlobals } from './numpy.js'
import { readPickle } from './read.js'
import { Budget } from './values.js'

/** Bytes; strategies of large models have some ten millions. */
const largestFile = 256e6
/** Bytes; real ones have about a hundred. */
const largestHeader = 65536

/**
 * The array of a .npy file (versions 1 to 3) of booleans, integers, floats or objects; nothing of it is executed. An
 * array of objects is what its pickle says. Throws ERR_WEIGHTSMITH_FORMAT for what is not read or contradicts itself,
 * ERR_WEIGHTSMITH_NOT_FOUND or _IO_READ for the file.
 */
export async function readNpy(file: string): Promise<NumpyArray> {
  return parseNpy(await readSmall(file, largestFile), file)
}

/** The same of bytes; `file` names them in messages. */
export function parseNpy(bytes: Uint8Array, file: string): NumpyArray {
  const refuse = (why: string): never => {
    throw new WeightsmithError('ERR_WEIGHTSMITH_FORMAT', `${file} is not valid .npy: ${why}.`, { file })
  }
  const head = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  if (head.toString('latin1', 0, 6) !== '\x93NUMPY' || head.length < 12) refuse('it does not begin as one')
  const version = head[6] ?? 0
  if (version < 1 || version > 3) refuse(`it has the version ${version}, and 1 to 3 are read`)
  const start = version === 1 ? 10 : 12
  const length = version === 1 ? head.readUInt16LE(8) : head.readUInt32LE(8)
  if (length > largestHeader || start + length > head.length) refuse(`its header of ${length} bytes is cut off`)
  const header = head.toString('utf8', start, start + length)
  const [, quoted, fortran, sizes = ''] = form.exec(header) ?? []
  if (quoted === undefined) refuse('its header has not the keys descr, fortran_order and shape with plain values')
  const dtype = NumpyDtype.parse(quoted ?? '') ?? refuse(`its elements are ${quoted}, which is not read`)
  const shape = sizes.split(',').flatMap((size) => (size.trim() === '' ? [] : [Number(size)]))
  const data = bytes.subarray(start + length)
  if (dtype.code === 'O') {
    const array = readPickle(data, numpyGlobals, file)
    if (!(array instanceof NumpyArray) || array.dtype !== 'object') return refuse('its pickle is no array of objects')
    const same = array.shape.join() === shape.join()
    return same ? array : refuse(`its header says the shape [${shape}], its pickle [${array.shape}]`)
  }
  const array = new NumpyArray(new Budget(Number.POSITIVE_INFINITY))
  const wrong = array.fill(shape, dtype, fortran === 'True' ? 'F' : 'C', data)
  return wrong === undefined ? array : refuse(`it has an array ${wrong}`)
}

/** The header as NumPy writes it: keys in the order of the alphabet, which readers may count on. */
const form =
  /^\{'descr': '([^'\n]{1,16})', 'fortran_order': (True|False), 'shape': \(((?:\d{1,16}, ?){0,64}(?:\d{1,16})?)\), ?\} *\n?$/
