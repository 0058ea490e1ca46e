/**
 * A model's chat template, by Hugging Face's own reader of Jinja in JavaScript: messages as the text that the model
 * knows, and which parts of that text it would have to write itself.
 */

import { Template } from '@huggingface/jinja'
import { messageOf, WeightsmithError } from '../util/errors.js'

export interface ChatMessage {
  role: string
  content: string
}

/** A text, and from where to where the assistant says it; `marked`: by the template's own words. */
export interface Rendered {
  text: string
  said: [from: number, to: number][]
  marked: boolean
}

/** What a template that marks what is generated is made to write there: of no language. */
const marks = { begin: '\u{f5a71}', end: '\u{f5a72}' }
const generation = /\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}/g

export class ChatTemplate {
  private template: Template | undefined
  private marked: Template | undefined

  /** `tokens`: special tokens by their names, which templates write. */
  constructor(
    private readonly model: string,
    private readonly source: string | undefined,
    private readonly tokens: Readonly<Record<string, string>>,
  ) {}

  /** `open`: up to where an answer begins. */
  render(messages: readonly ChatMessage[], open: boolean): string {
    return this.use((source) => {
      this.template ??= new Template(source)
      return this.template.render({ ...this.tokens, messages, add_generation_prompt: open })
    })
  }

  /** A whole conversation. Throws ERR_WEIGHTSMITH_FORMAT where what the assistant says cannot be told. */
  conversation(messages: readonly ChatMessage[]): Rendered {
    const text = this.render(messages, false)
    const marked = this.use((source) => {
      if (source.search(generation) < 0) return undefined
      this.marked ??= new Template(
        source.replace(generation, (_, left: string, end: string | undefined, right: string) => {
          const mark = end === undefined ? marks.begin : marks.end
          return `{%${left} if true %}{{ '${mark}' }}{% endif ${right}%}`
        }),
      )
      return this.marked.render({ ...this.tokens, messages, add_generation_prompt: false })
    })
    if (marked === undefined) return { text, said: this.said(messages, text), marked: false }
    const parts = marked.split(new RegExp(`${marks.begin}|${marks.end}`, 'u'))
    if (parts.join('') !== text || parts.length % 2 === 0) {
      throw this.unusable('what it marks as generated does not lie in the text that it gives')
    }
    let at = 0
    const said: Rendered['said'] = []
    for (const [i, part] of parts.entries()) {
      if (i % 2 === 1) said.push([at, at + part.length])
      at += part.length
    }
    return { text, said, marked: true }
  }

  /** From where an answer begins to where the conversation up to it ends. */
  private said(messages: readonly ChatMessage[], text: string): Rendered['said'] {
    return messages.flatMap(({ role }, i) => {
      if (role !== 'assistant') return []
      const [before, after] = [this.render(messages.slice(0, i), true), this.render(messages.slice(0, i + 1), false)]
      for (const part of [before, after]) {
        if (!text.startsWith(part)) throw this.unusable(notPrefix(i, messages.length))
      }
      if (!after.startsWith(before)) throw this.unusable(notPrefix(i, messages.length))
      return [[before.length, after.length] as [number, number]]
    })
  }

  private use<T>(work: (source: string) => T): T {
    if (this.source === undefined) {
      throw new WeightsmithError(
        'ERR_WEIGHTSMITH_ARGUMENT',
        `The model ${this.model} has no chat template in tokenizer_config.json or chat_template.jinja; give it plain prompts.`,
      )
    }
    try {
      return work(this.source)
    } catch (cause) {
      throw this.unusable(messageOf(cause), cause)
    }
  }

  private unusable(why: string, cause?: unknown): WeightsmithError {
    const message = `The chat template of ${this.model} cannot be used: ${why}.`
    return new WeightsmithError('ERR_WEIGHTSMITH_FORMAT', message, { cause })
  }
}

function notPrefix(message: number, count: number): string {
  return (
    `the text of the conversation up to message ${message + 1} of ${count} is not what the whole conversation begins with, ` +
    'so what the assistant says there cannot be told; mark it with {% generation %}, or give conversations in which the ' +
    'assistant speaks last and once'
  )
}
