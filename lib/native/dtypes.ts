/** Types of elements in the words of kernels. */

import type { LoadDType } from './border.js'
import { layout } from './layouts.js'

export const dtypeCodes: Readonly<Record<LoadDType, number>> = {
  F32: layout.dtypeF32,
  F16: layout.dtypeF16,
  BF16: layout.dtypeBf16,
  F64: layout.dtypeF64,
  F8_E4M3: layout.dtypeF8E4m3,
  F8_E5M2: layout.dtypeF8E5m2,
}
