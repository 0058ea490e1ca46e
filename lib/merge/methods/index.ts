/** The registry of merge methods; recipes, documentation and tests iterate it. */

import { arceeFusion } from './arcee_fusion.js'
import { breadcrumbs, breadcrumbsTies } from './breadcrumbs.js'
import { dareLinear, dareTies } from './dare.js'
import { della, dellaLinear } from './della.js'
import { fisher } from './fisher.js'
import { geometricMedian } from './geometric_median.js'
import { imm } from './imm.js'
import { karcher } from './karcher.js'
import { linear } from './linear.js'
import type { MergeMethod } from './method.js'
import { modelStock } from './model_stock.js'
import { multislerp } from './multislerp.js'
import { nearswap } from './nearswap.js'
import { nuslerp } from './nuslerp.js'
import { passthrough } from './passthrough.js'
import { ram, ramPlusTl } from './ram.js'
import { regmean } from './regmean.js'
import { sce } from './sce.js'
import { slerp } from './slerp.js'
import { taskArithmetic } from './task_arithmetic.js'
import { ties } from './ties.js'

export type { Made, MergeMethod, ParameterScalar, ParameterSpec, Step, TensorParameters } from './method.js'

/** Merge methods by name. */
export const methods: ReadonlyMap<string, MergeMethod> = new Map(
  [
    linear,
    slerp,
    nuslerp,
    multislerp,
    karcher,
    geometricMedian,
    taskArithmetic,
    ties,
    dareLinear,
    dareTies,
    modelStock,
    nearswap,
    arceeFusion,
    fisher,
    regmean,
    breadcrumbs,
    breadcrumbsTies,
    della,
    dellaLinear,
    ram,
    ramPlusTl,
    sce,
    passthrough,
    imm,
  ].map((m) => [m.name, m]),
)

/**
 * Parameters of mergekit's methods that change nothing here: `int8_mask` picks a storage type of a mask, the
 * others belong to other methods. They are accepted, and named in the notes of the report.
 */
export const ignoredParameters: ReadonlySet<string> = new Set([
  'weight',
  'density',
  'normalize',
  'lambda',
  'rescale',
  'int8_mask',
  't',
  'embed_slerp',
  'gamma',
  'epsilon',
  'scale',
  'select_topk',
  'filter_wise',
  'nuslerp_flatten',
  'nuslerp_row_wise',
  'normalize_weights',
  'eps',
  'r',
  'alpha',
  'max_iter',
  'tol',
])
