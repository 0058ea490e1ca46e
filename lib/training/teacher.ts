/** Where a student's teacher is: a model beside it, or a file of what one has said. */

import type { Checkpoint } from '../checkpoint/index.js'
import { inputsOf } from '../checkpoint/index.js'
import type { InputFile } from '../checkpoint/resume/index.js'
import type { Engine } from '../engine/engine.js'
import type { Host } from '../native/host.js'
import { type Taught, type Teaching, TrainableModel, type TrainableOptions } from '../runtime/index.js'
import { checkpointOf } from '../runtime/open_model.js'
import type { TrainingExample } from './batches.js'
import { TeacherFile, type TeacherSubject } from './teacher_file.js'

/** A teacher before training begins. */
export type TeacherSource = { checkpoint: Checkpoint } | { file: TeacherFile }

/** A teacher that is asked. */
export interface Teacher {
  says(batch: readonly TrainingExample[]): Promise<Taught>
  close(): Promise<void>
}

/** A path that ends with .safetensors is a file of what a teacher has said, any other a model. */
export const isTeacherFile = (path: string) => path.endsWith('.safetensors')

/** Throws what opening a model throws, and `TeacherFile.open`. */
export async function findTeacher(engine: Engine, path: string, subject: TeacherSubject): Promise<TeacherSource> {
  if (!isTeacherFile(path)) return { checkpoint: await checkpointOf(engine, path) }
  return { file: await engine.use(({ addon }) => TeacherFile.open(addon, path, subject)) }
}

/** What the student's model has to know of it. */
export const taughtBy = (source: TeacherSource): TrainableOptions['teacher'] =>
  'file' in source ? { top: source.file.top } : source.checkpoint

export const teacherInputs = (source: TeacherSource): InputFile[] =>
  'file' in source ? [source.file.input] : inputsOf([source.checkpoint])

/** What a teacher takes on the device. It keeps no layer's values, as nothing goes back through it. */
export async function teacherForecast(engine: Engine, source: TeacherSource | undefined, tokens: number) {
  if (source === undefined || 'file' in source) return { bytes: 0, bytesReadPerPass: 0 }
  return TrainableModel.forecast((work) => engine.use(work), source.checkpoint, { tokens, tapes: 1 })
}

/** Lends the engine with the memory that a teacher leaves. */
export function besideTeacher(engine: Engine, bytes: number): <T>(work: (host: Host) => Promise<T>) => Promise<T> {
  return (work) => engine.use((host) => work({ ...host, memory: host.memory - bytes }))
}

export async function openTeacher(
  engine: Engine,
  source: TeacherSource,
  { tokens, teaching, check }: { tokens: number; teaching: Teaching; check: () => void },
): Promise<Teacher> {
  if ('file' in source) {
    const { file } = source
    return { says: async (batch) => ({ ...teaching, rows: file.reader(batch) }), close: async () => undefined }
  }
  const model = await TrainableModel.open((work) => engine.use(work), source.checkpoint, { tokens, tapes: 1, check })
  return {
    says: async (batch) => ({ ...teaching, normed: await model.normed(batch, teaching.mask) }),
    close: () => model.close(),
  }
}
