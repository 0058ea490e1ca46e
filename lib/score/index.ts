/** Importance scores: what is measured, and the files it is kept in. */

export { type Collector, SavedArrays } from './collectors.js'
export { fingerprint, readScores, type ScoreInfo, type Scores, ScoreWriter } from './file.js'
export { chosenMethods, type ScoreMethod, scoreMethods } from './methods.js'
export { restoreScores, saveScores } from './resume_point.js'
