/** Data sets and texts as models take them: tokenizers, lines of files, and whole sequences in batches. */

export { type Batch, batchesOf, packed, placed } from './batching.js'
export type { ChatMessage } from './chat_template.js'
export {
  type Choice,
  type Example,
  exampleOf,
  isMessage,
  type PromptLine,
  readChoices,
  readExamples,
  readPrompts,
} from './examples.js'
export { readIfThere } from './files.js'
export { checkIds, ImageLoader, idsOf, type Line, pairOf, readDataLines, readLines } from './lines.js'
export { type DataRecord, invalidRecord, readRecords } from './records.js'
export { readSequences, sampleLines } from './sequences.js'
export { type Conversation, openTokenizer, type Prompt, type Tokenizer } from './tokenizer.js'
