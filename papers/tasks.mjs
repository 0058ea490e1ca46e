/**
 * Lines of the five tasks of the demo's models, as many as wanted: sums, differences, words turned around, letters in
 * order, and the largest of some numbers. Each line follows from the seed and its number alone.
 */

import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { stream } from '../dist/esm/util/philox.js'

const letters = 'abcdefghijklmnopqrstuvwxyz'

/** Whole numbers from a stream of words. */
function drawer(seed, line) {
  const word = stream('papers', seed, line)
  let at = 0
  const below = (end) => Math.floor((word(at++) / 2 ** 32) * end)
  const between = (low, high) => low + below(high - low + 1)
  /** Of two or three digits. */
  const number = () => {
    const size = 10 ** (between(2, 3) - 1)
    return between(size, 10 * size - 1)
  }
  const text = (least, most) => Array.from({ length: between(least, most) }, () => letters[below(26)]).join('')
  return { below, between, number, text }
}

const tasks = [
  ({ number }) => {
    const [a, b] = [number(), number()]
    return [`${a}+${b}=`, String(a + b)]
  },
  ({ number }) => {
    const [a, b] = [number(), number()].sort((x, y) => y - x)
    return [`${a}-${b}=`, String(a - b)]
  },
  ({ text }) => {
    const word = text(5, 9)
    return [`r:${word}=`, [...word].reverse().join('')]
  },
  ({ text }) => {
    const word = text(4, 7)
    return [`s:${word}=`, [...word].sort().join('')]
  },
  ({ below, between }) => {
    const values = Array.from({ length: between(4, 5) }, () => below(100))
    return [`m:${values.join(',')}=`, String(Math.max(...values))]
  },
]

/** Prompts of all files of a folder: what is measured must not have been trained on. */
export function promptsIn(folder) {
  const files = readdirSync(folder).filter((name) => name.endsWith('.jsonl'))
  const lines = files.flatMap((name) => readFileSync(join(folder, name), 'utf8').trim().split('\n'))
  return new Set(lines.map((line) => JSON.parse(line).prompt))
}

/** Lines of tasks that are drawn evenly, none of which has a prompt among `others`. */
export function freshLines(count, seed, others) {
  const lines = []
  for (let line = 0; lines.length < count; line++) {
    const draw = drawer(seed, line)
    const [prompt, answer] = tasks[draw.below(tasks.length)](draw)
    if (!others.has(prompt)) lines.push({ prompt, answer })
  }
  return lines
}
