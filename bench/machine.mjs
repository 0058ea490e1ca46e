/** What the figures were measured on. */
import { availableParallelism, cpus, release, totalmem, type } from 'node:os'
import { bytes } from '../dist/esm/cli/format.js'

export function machineFacts({ name, description, driver }) {
  return {
    processor: `${cpus()[0]?.model ?? 'unknown'}, ${availableParallelism()} cores`,
    memory: bytes(totalmem()),
    device: name,
    driver: `${description} (${driver})`,
    system: `${type()} ${release()}`,
    node: process.version,
  }
}
