/** Subgroups of a device, as kernels use them. */

import type { NativeDeviceInfo } from './border.js'

/** Invocations of a subgroup, whose neighbours read for each other; 0: the kernels that run anywhere. */
export function subgroupLanes({ features, limits }: NativeDeviceInfo): number {
  const lanes = features.includes('subgroups') ? (limits.subgroupMinSize ?? 0) : 0
  return lanes < 4 ? 0 : lanes
}
