/** Pickles and files of NumPy, read as data. */

export { parseNpy, readNpy } from './npy.js'
export { NumpyArray, numpyGlobals } from './numpy.js'
export { readPickle } from './read.js'
export { type PickleGlobals, type PickleKey, PickleObject, type PickleValue } from './values.js'
