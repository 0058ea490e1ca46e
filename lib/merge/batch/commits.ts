/** The last step of finished outputs, in groups, because the first fsync of a group pays for all. */

import { join } from 'node:path'
import type { Stage } from '../../checkpoint/index.js'
import type { NativeAddon } from '../../native/border.js'
import { fail, publishAll } from '../index.js'

/** Outputs of a job that wait for the disk. */
export interface Commit {
  outputs: { stage: Stage; files: string[] }[]
  bytes: number
  done(): void
  fail(error: unknown): void
}

/** Gives outputs their final names in groups: everything of a group is on disk before one of them is renamed. */
export class Commits {
  private static readonly most = { outputs: 64, bytes: 2 ** 28 }
  private waiting: Commit[] = []
  private bytes = 0
  private last: Promise<void> = Promise.resolve()

  constructor(
    private readonly addon: Pick<NativeAddon, 'syncFiles'>,
    private readonly folder: string,
    /** Whether results are to be on disk when their jobs are done. */
    private readonly synced: boolean,
  ) {}

  /** Settles at once, or with the group that the output completes. */
  async add(commit: Commit): Promise<void> {
    this.waiting.push(commit)
    this.bytes += commit.bytes
    if (this.waiting.length >= Commits.most.outputs || this.bytes >= Commits.most.bytes) await this.flush()
  }

  flush(): Promise<void> {
    const group = this.waiting
    this.waiting = []
    this.bytes = 0
    this.last = this.last.then(() => this.commit(group))
    return this.last
  }

  private async commit(group: Commit[]): Promise<void> {
    if (group.length === 0) return
    // One that fails to reach the disk must not fail the others: then each goes alone.
    const together = await this.sync(group).then(
      () => true,
      () => false,
    )
    const renamed: Commit[] = []
    for (const commit of group) {
      try {
        if (!together) await this.sync([commit])
        await publishAll(commit.outputs)
        renamed.push(commit)
      } catch (error) {
        commit.fail(await fail(commit.outputs, error))
      }
    }
    try {
      if (this.synced) await this.addon.syncFiles([this.folder])
      for (const commit of renamed) commit.done()
    } catch (error) {
      for (const commit of renamed) commit.fail(error)
    }
  }

  private async sync(group: Commit[]): Promise<void> {
    if (!this.synced) return
    const paths = group
      .flatMap(({ outputs }) => outputs)
      .flatMap(({ stage: { folder }, files }) => [...files.map((name) => join(folder, name)), folder])
    await this.addon.syncFiles(paths)
  }
}
