/** Storage types as the planner sees them. */

import type { LoadDType, StoreDType } from '../native/border.js'
import { dtypeCodes } from '../native/dtypes.js'
import { layout } from '../native/layouts.js'

/** The reference writer's order; it sorts a file's tensors by this, largest first, then by name. */
const order = [
  'BOOL',
  'F4',
  'F6_E2M3',
  'F6_E3M2',
  'U8',
  'I8',
  'F8_E5M2',
  'F8_E4M3',
  'F8_E8M0',
  'F8_E4M3FNUZ',
  'F8_E5M2FNUZ',
  'I16',
  'U16',
  'F16',
  'BF16',
  'I32',
  'U32',
  'F32',
  'C64',
  'F64',
  'I64',
  'U64',
]

export function writerRank(dtype: string): number {
  return order.indexOf(dtype)
}

const sizes = { F32: 4, F16: 2, BF16: 2, F64: 8, F8_E4M3: 1, F8_E5M2: 1 } as const

export function isLoadable(dtype: string): dtype is LoadDType {
  return Object.hasOwn(sizes, dtype)
}

/** The code of a type in kernels; for others that of types that are found at run time. */
export function kernelCode(dtype: string | undefined): number {
  return dtype !== undefined && isLoadable(dtype) ? dtypeCodes[dtype] : layout.dtypeMixed
}

export function isStorable(dtype: string): dtype is StoreDType {
  return dtype === 'F32' || dtype === 'F16' || dtype === 'BF16'
}

/** Integers, booleans and complex numbers are copied from the base, never mixed. */
export function isFloat(dtype: string): boolean {
  return /^B?F\d/.test(dtype)
}

export function bytesOf(dtype: LoadDType): number {
  return sizes[dtype]
}

/** What a computed tensor is stored as where the recipe asks for nothing. */
export function storedAs(dtype: string): StoreDType {
  if (isStorable(dtype)) return dtype
  return dtype === 'F64' ? 'F32' : 'BF16'
}

/** PyTorch's name, as config.json has it. */
export function torchName(dtype: StoreDType): string {
  return { F32: 'float32', F16: 'float16', BF16: 'bfloat16' }[dtype]
}

const named: ReadonlyMap<string, StoreDType> = new Map<string, StoreDType>([
  ['float32', 'F32'],
  ['fp32', 'F32'],
  ['f32', 'F32'],
  ['float16', 'F16'],
  ['fp16', 'F16'],
  ['f16', 'F16'],
  ['half', 'F16'],
  ['bfloat16', 'BF16'],
  ['bf16', 'BF16'],
])

export const dtypeNames: readonly string[] = [...named.keys()]

/** The storage type that `bfloat16`, `bf16`, `F32` … stand for. */
export function parseDType(text: string): StoreDType | undefined {
  return named.get(text.toLowerCase().replace(/^torch\./, ''))
}
