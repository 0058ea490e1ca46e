/**
 * Text of continuations while they grow. Every token is decoded once as it comes, after the one before it, and once
 * more with the whole continuation when that has ended, which is what a result says.
 */

import type { SampleIndex } from './generate_ids.js'

/** A continuation under way. */
interface Growing {
  /** Tokens that are decoded: they end at the end of a character. */
  decoded: number
  /** The last of them, in front of the next. */
  context: readonly number[]
  /** Text that is not emitted yet, because it may be the beginning of a stop text. */
  held: string
  /** Length of what is emitted. */
  emitted: number
}

/** Tokens in front of those that are decoded: some have no text of their own. */
const contextTokens = 8

export interface DetokenizerOptions {
  /** Texts that end a continuation; they are not part of it. */
  stop?: readonly string[] | undefined
  onText?: ((piece: string, at: SampleIndex) => void) | undefined
}

export class StreamingDetokenizer {
  private readonly growing = new Map<string, Growing>()
  private readonly longestStop: number

  /** `decode`: the text of tokens as it goes on after others. `promptOf`: the tokens a continuation begins after. */
  constructor(
    private readonly decode: (ids: readonly number[], after: readonly number[]) => string,
    private readonly promptOf: (at: SampleIndex) => readonly number[],
    private readonly options: DetokenizerOptions,
  ) {
    this.longestStop = Math.max(0, ...(options.stop ?? []).map(({ length }) => length))
  }

  /** Takes all tokens of a continuation so far, of which the last is new. Whether a stop text is there. */
  push(ids: readonly number[], at: SampleIndex): boolean {
    const { stop = [], onText } = this.options
    if (stop.length === 0 && onText === undefined) return false
    const one = this.growingAt(at)
    const next = ids.slice(one.decoded)
    const text = this.decode(next, one.context)
    if (this.cut(one.held + text).stopped) return true
    // The bytes of a character may be several tokens.
    if (text.endsWith('\ufffd')) return false
    one.decoded = ids.length
    one.context = [...one.context, ...next].slice(-contextTokens)
    one.held += text
    this.emit(one, one.held.slice(0, Math.max(0, one.held.length - Math.max(0, this.longestStop - 1))), at)
    return false
  }

  /** The whole text of a continuation, up to a stop text; emits what was held back of it. */
  finish(ids: readonly number[], at: SampleIndex): { text: string; stopped: boolean } {
    const whole = this.cut(this.decode(ids, this.promptOf(at)))
    const one = this.growingAt(at)
    this.emit(one, whole.text.slice(one.emitted), at)
    this.growing.delete(keyOf(at))
    return whole
  }

  private growingAt(at: SampleIndex): Growing {
    const known = this.growing.get(keyOf(at))
    if (known !== undefined) return known
    const one = { decoded: 0, context: this.promptOf(at), held: '', emitted: 0 }
    this.growing.set(keyOf(at), one)
    return one
  }

  private cut(text: string): { text: string; stopped: boolean } {
    const found = (this.options.stop ?? []).map((stop) => text.indexOf(stop)).filter((at) => at >= 0)
    return found.length === 0 ? { text, stopped: false } : { text: text.slice(0, Math.min(...found)), stopped: true }
  }

  private emit(one: Growing, piece: string, at: SampleIndex): void {
    if (piece === '') return
    one.held = one.held.slice(piece.length)
    one.emitted += piece.length
    this.options.onText?.(piece, at)
  }
}

function keyOf({ prompt, sample }: SampleIndex): string {
  return `${prompt} ${sample}`
}
