/** Data sets and texts as models take them: tokenizers, lines of files, and whole sequences in batches. */

export { type Choice, type Example, type PromptLine, readChoices, readExamples, readPrompts } from './examples.js'
export { checkIds, idsOf, type Line, pairOf, readDataLines, readLines, Sight } from './lines.js'
export { type Batch, batchesOf, pick, readSequences } from './sequences.js'
export { type Message, openText, type Prompt, type Text } from './text.js'
