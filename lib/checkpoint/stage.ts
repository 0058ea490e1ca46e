/**
 * Where an output comes into being: a sibling folder `<out>.partial`, renamed when everything in it is on disk. Until
 * then nothing has the final name; on failure the folder goes and an output that was there before is put back.
 */

import type { FileHandle } from 'node:fs/promises'
import { mkdir, open, readdir, readFile, realpath, rename, rm, stat, statfs, writeFile } from 'node:fs/promises'
import { basename, dirname, isAbsolute, join, relative, resolve, sep } from 'node:path'
import { codeOf, messageOf, WeightsmithError } from '../errors.js'
import type { Checkpoint } from './open.js'

/** Marks a folder as ours, and says which process fills it. */
const marker = '.weightsmith-partial'

/** Refuses an output that would mix with an input, or destroy something. Returns the absolute path. */
export async function checkOutput(out: string, inputs: Checkpoint[], overwrite: boolean): Promise<string> {
  const target = await realTarget(resolve(out))
  for (const input of inputs) {
    const source = await realpath(input.path)
    const inside = input.folder !== undefined && contains(source, target)
    if (inside || contains(target, source)) {
      throw new WeightsmithError(
        'ERR_WEIGHTSMITH_OUTPUT_INSIDE_INPUT',
        `The output ${out} and the model ${input.name} (${source}) overlap; choose a folder outside of it.`,
        { file: target },
      )
    }
  }
  const info = await stat(target).catch(() => undefined)
  if (info === undefined) return target
  const kept = !info.isDirectory() ? 'a file' : (await readdir(target)).length > 0 ? 'a folder with files' : undefined
  if (kept !== undefined && (!overwrite || !info.isDirectory())) {
    const hint = info.isDirectory() ? 'choose another folder or ask to overwrite it' : 'choose another name'
    throw new WeightsmithError('ERR_WEIGHTSMITH_OUTPUT_EXISTS', `The output ${out} is ${kept} already; ${hint}.`, {
      file: target,
    })
  }
  return target
}

/** Refuses before the first byte when the disk cannot hold the output. */
export async function checkDisk(target: string, bytes: number): Promise<void> {
  const { bavail, bsize } = await statfs(await nearestFolder(target))
  const free = bavail * bsize
  if (free >= bytes) return
  throw new WeightsmithError(
    'ERR_WEIGHTSMITH_DISK_FULL',
    `The output ${target} takes ${bytes} bytes, but its disk has ${free} bytes free.`,
    { file: target },
  )
}

export class Stage {
  private constructor(
    private readonly target: string,
    readonly folder: string,
    private readonly sync: boolean,
  ) {}

  static async create(target: string, sync: boolean): Promise<Stage> {
    const folder = `${target}.partial`
    try {
      await mkdir(dirname(target), { recursive: true })
      if ((await claim(folder)) === 'taken') {
        await refuseForeign(folder)
        await rm(folder, { recursive: true, force: true })
        if ((await claim(folder)) === 'taken') throw busy(folder, 'another process has just made it')
      }
      await writeFile(join(folder, marker), `${process.pid}\n`)
    } catch (cause) {
      throw cause instanceof WeightsmithError ? cause : writeFailed(folder, cause)
    }
    return new Stage(target, folder, sync)
  }

  /** Writes a small file. */
  async write(name: string, data: string | Uint8Array): Promise<void> {
    const path = join(this.folder, name)
    let file: FileHandle | undefined
    try {
      file = await open(path, 'w')
      await file.writeFile(data)
      if (this.sync) await file.sync()
    } catch (cause) {
      throw writeFailed(path, cause)
    } finally {
      await file?.close()
    }
  }

  /** Gives the folder its final name. */
  async publish(overwrite: boolean): Promise<void> {
    const aside = `${this.target}.replaced-${process.pid}`
    let moved = false
    try {
      await rm(join(this.folder, marker))
      if (this.sync) await syncFolder(this.folder)
      if (overwrite && (await exists(this.target))) {
        await rename(this.target, aside)
        moved = true
      }
      await rename(this.folder, this.target)
      if (this.sync) await syncFolder(dirname(this.target))
    } catch (cause) {
      if (moved && !(await exists(this.target))) await rename(aside, this.target)
      throw writeFailed(this.target, cause)
    }
    if (moved) await rm(aside, { recursive: true, force: true })
  }

  /** Removes what was written; for failures. */
  async discard(): Promise<void> {
    await rm(this.folder, { recursive: true, force: true })
  }
}

async function claim(folder: string): Promise<'made' | 'taken'> {
  try {
    await mkdir(folder)
    return 'made'
  } catch (error) {
    if (codeOf(error) === 'EEXIST') return 'taken'
    throw error
  }
}

/** Left by a run that was killed: ours to remove. Anything else is not. */
async function refuseForeign(folder: string): Promise<void> {
  const text = await readFile(join(folder, marker), 'utf8').catch(() => undefined)
  if (text === undefined) {
    const entries = await readdir(folder).catch(() => [''])
    if (entries.length === 0) return
    throw busy(folder, 'it holds files that are not of an unfinished merge')
  }
  const owner = Number(text)
  if (Number.isSafeInteger(owner) && owner > 0 && isRunning(owner)) throw busy(folder, `process ${owner} is writing it`)
}

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return codeOf(error) === 'EPERM'
  }
}

function busy(folder: string, why: string): WeightsmithError {
  return new WeightsmithError('ERR_WEIGHTSMITH_OUTPUT_EXISTS', `The work folder ${folder} is there already: ${why}.`, {
    file: folder,
  })
}

async function syncFolder(path: string): Promise<void> {
  // Windows neither opens nor needs to sync a folder
  if (process.platform === 'win32') return
  const handle = await open(path, 'r')
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}

function contains(folder: string, path: string): boolean {
  const way = relative(folder, path)
  return way === '' || (way !== '..' && !way.startsWith(`..${sep}`) && !isAbsolute(way))
}

async function nearestFolder(path: string): Promise<string> {
  let folder = dirname(path)
  while (!(await exists(folder)) && dirname(folder) !== folder) folder = dirname(folder)
  return folder
}

/** The path with the links of its existing part resolved. */
async function realTarget(path: string): Promise<string> {
  if (await exists(path)) return realpath(path)
  const parent = dirname(path)
  return parent === path ? path : join(await realTarget(parent), basename(path))
}

async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  )
}

function writeFailed(path: string, cause: unknown): WeightsmithError {
  const full = codeOf(cause) === 'ENOSPC' || codeOf(cause) === 'EDQUOT'
  return new WeightsmithError(
    full ? 'ERR_WEIGHTSMITH_DISK_FULL' : 'ERR_WEIGHTSMITH_IO_WRITE',
    `${path} cannot be written: ${messageOf(cause)}.`,
    { cause, file: path },
  )
}
