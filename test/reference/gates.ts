/** Noisy top-k gates and their gradient in float64. */
import { math } from '../math.js'

type Values = ArrayLike<number>

const softplus = (x: number) => math.max(x, 0) + math.log1p(math.exp(-math.abs(x)))

/** Gates of the `top` largest, and which these are; of equal ones the first. */
export function gates(logits: Values, spread: Values, noise: Values, top: number) {
  const noisy = Array.from(logits, (logit, e) => logit + noise[e]! * softplus(spread[e]!))
  const order = noisy.map((_, e) => e).sort((a, b) => noisy[b]! - noisy[a]! || a - b)
  const chosen = new Set(order.slice(0, top))
  const largest = noisy[order[0]!]!
  const raw = noisy.map((value, e) => (chosen.has(e) ? math.exp(value - largest) : 0))
  const sum = raw.reduce((a, b) => a + b, 0)
  return { gates: raw.map((value) => value / sum), counts: noisy.map((_, e) => chosen.has(e)) }
}

/** From the gradient of gates to those of logits and of spreads; which experts count is given. */
export function gatesGradient(logits: Values, spread: Values, noise: Values, g: Values, top: number) {
  const { gates: own, counts } = gates(logits, spread, noise, top)
  const mean = own.reduce((sum, gate, e) => sum + (counts[e] ? gate * g[e]! : 0), 0)
  const ofNoisy = own.map((gate, e) => (counts[e] ? gate * (g[e]! - mean) : 0))
  return {
    logits: ofNoisy,
    spread: ofNoisy.map((value, e) => (value * noise[e]!) / (1 + math.exp(-spread[e]!))),
  }
}
