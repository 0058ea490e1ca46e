/** Checkpoints on disk: reading, laying out and staging. */

export { auxiliaryFiles, type Copy, filesLeft, type LayerChange, outputConfig } from './auxiliary.js'
export { isComputed } from './buffers.js'
export { modelCard, plainCard } from './card.js'
export { type Content, type Cut, cutTensor } from './cut.js'
export {
  bytesOf,
  dtypeNames,
  isFloat,
  isLoadable,
  isStorable,
  kernelCode,
  parseDType,
  storedAs,
  torchName,
} from './dtypes.js'
export { inputsOf, refuseChanged } from './inputs.js'
export { inside } from './inside.js'
export { withLayerTypes } from './layer_types.js'
export { layerChange, layerLists } from './layers.js'
export { layOut, type OutputFile, type OutputLayout, type OutputTensor } from './layout.js'
export { licenceFiles, licenceFront } from './licence.js'
export {
  areThere,
  describeInputs,
  deviceOf,
  fileEntry,
  type Manifest,
  type ManifestInput,
  manifestName,
  manifestText,
  readManifest,
} from './manifest.js'
export {
  type LayerName,
  layerOf,
  type Module,
  mainStack,
  moduleOf,
  modules,
  stacksOf,
  standsBehindLayers,
} from './names.js'
export { configText } from './numbers.js'
export {
  type Checkpoint,
  type CheckpointFile,
  type CheckpointTensor,
  indexName,
  layerKey,
  openCheckpoint,
  textConfig,
} from './open.js'
export { soundProgress } from './progress.js'
export { type Quantisation, quantisationNamed, refuseQuantised } from './quantised.js'
export { resolveModel } from './resolve.js'
export { refuseDifferent } from './same.js'
export { Sink } from './sink.js'
export { largestAuxiliary, readSmall } from './small.js'
export { checkDisk, checkOutput, Stage } from './stage.js'
export { commonTemplate } from './templates.js'
export { headOf, isHead, storesEmbedding, tiesEmbeddings } from './ties.js'
export { type AddedToken, editTokenizer, readVocabulary, type TokenizerChange, type Vocabulary } from './tokenizer.js'
