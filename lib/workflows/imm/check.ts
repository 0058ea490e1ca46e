/** Whether a text gives the right answer. */

import type { ImmAnswerCheck } from './config.js'

/** What an answer of this kind says: texts are compared by it, and counted by it where collapse is measured. */
export function answerIn(text: string, check: ImmAnswerCheck = 'exact', pattern?: string): string | undefined {
  if (check === 'exact') return text.trim()
  if (check === 'regex') {
    const found = new RegExp(pattern ?? '').exec(text)
    return found === null ? undefined : (found[1] ?? found[0]).trim()
  }
  const number = text
    .replace(/(?<=\d),(?=\d{3})/g, '')
    .match(/-?\d+(\.\d+)?(e[+-]?\d+)?/gi)
    ?.at(-1)
  return number === undefined ? undefined : String(Number(number))
}

/** Whether it is the reference; the reference of a pattern may be the bare answer. */
export function isRight(text: string, answer: string, check: ImmAnswerCheck = 'exact', pattern?: string): boolean {
  const said = answerIn(text, check, pattern)
  const wanted = answerIn(answer, check, pattern) ?? answer.trim()
  return said !== undefined && said === wanted
}
