/** Data sets and texts as models take them: tokenizers, lines of files, and whole sequences in batches. */

export { type Batch, batchesOf, packed, placed } from './batching.js'
export { type Choice, type Example, type PromptLine, readChoices, readExamples, readPrompts } from './examples.js'
export { checkIds, ImageLoader, idsOf, type Line, pairOf, readDataLines, readLines } from './lines.js'
export { readSequences, sampleLines } from './sequences.js'
export { type ChatMessage, openTokenizer, type Prompt, type Tokenizer } from './tokenizer.js'
