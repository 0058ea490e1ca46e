/** Checkpoints on disk: reading, laying out and staging. */

export { type Adapter, type LowRank, openAdapter } from './adapter.js'
export { auxiliaryFiles, type Copy, type LayerChange, outputConfig } from './auxiliary.js'
export { modelCard, plainCard } from './card.js'
export { type Content, type Cut, cutTensor } from './cut.js'
export { bytesOf, isFloat, isLoadable, isStorable, kernelCode, storedAs, torchName } from './dtypes.js'
export { inside } from './inside.js'
export { withLayerTypes } from './layer_types.js'
export { layOut, type OutputFile, type OutputLayout, type OutputTensor } from './layout.js'
export {
  adapterOf,
  describeInputs,
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
  openCheckpoint,
  textConfig,
  tiesEmbeddings,
} from './open.js'
export { noteProgress, readProgress } from './progress.js'
export { replaceFile } from './replace.js'
export { Sink } from './sink.js'
export { largestAuxiliary, readSmall } from './small.js'
export { checkDisk, checkOutput, Stage } from './stage.js'
export { commonTemplate } from './templates.js'
export { type AddedToken, editTokenizer, readVocabulary, type TokenizerChange, type Vocabulary } from './tokenizer.js'
export { digest, inputsOf, refuseChanged, type Unfinished } from './unfinished.js'
