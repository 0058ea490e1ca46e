/** An engine's device as it is lent: what the verbs work with. */

import type { NativeAddon, NativeDevice } from './border.js'

export interface Host {
  addon: NativeAddon
  device: NativeDevice
  memory: number
}
