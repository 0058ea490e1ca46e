/** Checkpoints on disk: reading, laying out and staging. */

export { auxiliaryFiles, type Copy, outputConfig } from './auxiliary.js'
export { modelCard } from './card.js'
export { bytesOf, isFloat, isLoadable, isStorable, storedAs, torchName } from './dtypes.js'
export { inside } from './inside.js'
export { layOut, type OutputFile, type OutputLayout, type OutputTensor } from './layout.js'
export { type Manifest, type ManifestInput, manifestName, readManifest } from './manifest.js'
export { type LayerName, layerOf, mainStack, stacksOf, standsBehindLayers } from './names.js'
export {
  type Checkpoint,
  type CheckpointFile,
  type CheckpointTensor,
  indexName,
  openCheckpoint,
  textConfig,
  tiesEmbeddings,
} from './open.js'
export { largestAuxiliary, readSmall } from './small.js'
export { checkDisk, checkOutput, Stage } from './stage.js'
export { digest, inputsOf, refuseChanged, type Unfinished } from './unfinished.js'
