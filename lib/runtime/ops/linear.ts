/**
 * Products with a matrix, in the form that suits the device and the number of rows: kernel `gemm`, `gemm_transposed`
 * for the gradient of what was multiplied, `gemm_outer` for that of the matrix. An adapter is two thin matrices more.
 */

import type { NativeDispatch } from '../../native/border.js'
import { packParameters } from '../../native/parameters.js'
import { addBias, biasGradient } from './bias.js'
import { type Block, dtypeOf, type Forms, panel, plainForms } from './dispatch.js'
import { adaptedNorms, addedByMagnitude, magnitudeGradient, scaledByMagnitude } from './dora.js'
import { dropout } from './dropout.js'
import { adaptersOf, gradientOfMixture, gradientOfOutput, mixedFactors } from './mixture.js'
import type { Adapter, BackwardContext, Dropout, Op, StackContext } from './op.js'

/** y = x · Wᵀ + bias. */
export interface Spec {
  op: 'linear'
  x: string
  y: string
  weight: string
  bias?: string
}

/** Columns that an invocation makes. */
const invocationColumns = 8

/** The kernel that multiplies so many rows with a block, and the rows and columns that a workgroup of it makes. */
function gemmForm({ dtype, columns }: Block, rows: number, { lanes, tall: most, f16, matrix }: Forms) {
  if (matrix > 0 && dtype === 'F16' && columns % 32 === 0 && rows > 8) {
    return { kernel: `gemm_matrix_${matrix}`, tall: 2 * matrix, wide: panel, lanes }
  }
  if (lanes === 0 || columns % 4 !== 0 || (most === 1 && rows > 1)) {
    return { kernel: 'gemm', tall: 8, wide: 16 * invocationColumns, lanes }
  }
  // Tiles of 32 rows are faster by a quarter at least, if they are not half empty.
  const padded = (tall: number) => Math.ceil(rows / tall) * tall
  const tall = rows === 1 ? 1 : rows <= 8 ? 8 : most === 32 && padded(32) <= 1.25 * padded(16) ? 32 : 16
  return { kernel: `gemm_${tall}${f16 && dtype === 'F16' ? '_f16' : ''}`, tall, wide: lanes * invocationColumns, lanes }
}

/** y[rows, stride] at the columns of the block (+)= scale * x[from.., columns] · Wᵀ. */
const gemm = (
  weight: Block,
  x: number,
  y: number,
  {
    rows,
    stride,
    from = 0,
    add = false,
    scale = 1,
    forms = plainForms,
  }: { rows: number; stride: number; from?: number; add?: boolean; scale?: number; forms?: Forms },
): NativeDispatch => {
  const { kernel, tall, wide, lanes } = gemmForm(weight, rows, forms)
  return {
    kernel: `model/${kernel}`,
    constants: { ...dtypeOf(weight), SUBGROUP: lanes },
    parameters: packParameters('model/gemm', {
      rows,
      inner: weight.columns,
      columns: weight.rows,
      first: weight.first,
      stride,
      start: from,
      add: add ? 1 : 0,
      scale,
    }),
    buffers: [weight.buffer, x, y],
    grid: [Math.ceil(weight.rows / wide), Math.ceil(rows / tall), 1],
  }
}

/** y[from.., columns] (+)= scale * x[rows, stride] · W, from the columns of x that the block has made. */
const gemmTransposed = (
  weight: Block,
  x: number,
  y: number,
  {
    rows,
    stride,
    from = 0,
    add = false,
    scale = 1,
    forms: { lanes } = plainForms,
  }: { rows: number; stride: number; from?: number; add?: boolean; scale?: number; forms?: Forms },
): NativeDispatch => {
  const wide = lanes > 0 && stride % 4 === 0 && weight.rows % 4 === 0
  const thin = weight.columns <= 32
  return {
    kernel: `model/gemm_transposed${!wide ? '' : thin ? '_thin' : '_16'}`,
    constants: { ...dtypeOf(weight), ...(wide && { SUBGROUP: lanes }) },
    parameters: packParameters('model/gemm_transposed', {
      rows,
      inner: weight.columns,
      columns: weight.rows,
      first: weight.first,
      stride,
      start: from,
      add: add ? 1 : 0,
      scale,
    }),
    buffers: [weight.buffer, x, y],
    grid: !wide
      ? [Math.ceil(weight.columns / 16), Math.ceil(rows / 8), 1]
      : thin
        ? [Math.ceil(rows / (8 * lanes)), Math.ceil(weight.columns / 16), 1]
        : [Math.ceil(weight.columns / (8 * lanes)), Math.ceil(rows / 16), 1],
  }
}

/** The gradient of a block (+)= gᵀ · x[from..], from the columns of g[rows, stride] that the block has made. */
const gemmOuter = (
  to: Block,
  g: number,
  x: number,
  {
    rows,
    stride,
    from = 0,
    add = false,
    forms: { lanes } = plainForms,
  }: { rows: number; stride: number; from?: number; add?: boolean; forms?: Forms },
): NativeDispatch => {
  const wide = lanes > 0 && stride % 4 === 0 && to.rows % 4 === 0 && to.columns % 4 === 0
  return {
    kernel: wide ? 'model/gemm_outer_16' : 'model/gemm_outer',
    constants: wide ? { SUBGROUP: lanes } : {},
    parameters: packParameters('model/gemm_outer', {
      rows,
      inner: to.columns,
      columns: to.rows,
      first: to.first,
      stride,
      start: from,
      add: add ? 1 : 0,
    }),
    buffers: [g, x, to.buffer],
    grid: wide
      ? [Math.ceil(to.rows / (8 * lanes)), Math.ceil(to.columns / 16), 1]
      : [Math.ceil(to.rows / 64), to.columns, 1],
  }
}

const rowsOf = (blocks: readonly Block[]) => blocks.reduce((sum, block) => sum + block.rows, 0)

/** y = x · Wᵀ of a tensor, or y += scale * that. */
function product(
  weight: string,
  x: number,
  y: number,
  { rows, forms, blocks }: StackContext,
  more: { add?: boolean; scale?: number } = {},
): NativeDispatch[] {
  const all = blocks(weight)
  return all.map((block) => gemm(block, x, y, { rows, stride: rowsOf(all), forms, ...more }))
}

/** y (+)= scale * x · W of a tensor. */
function productTransposed(
  weight: string,
  x: number,
  y: number,
  { rows, forms, blocks }: StackContext,
  { add = false, scale = 1 }: { add?: boolean; scale?: number } = {},
): NativeDispatch[] {
  const all = blocks(weight)
  return all.map((block, i) =>
    gemmTransposed(block, x, y, { rows, stride: rowsOf(all), add: add || i > 0, scale, forms }),
  )
}

/** The gradient of a tensor gᵀ · x, where it is trained. */
function productOuter(
  weight: string,
  g: number,
  x: number,
  { rows, forms, trained }: BackwardContext,
): NativeDispatch[] {
  const of = trained(weight)
  if (of === undefined) return []
  const stride = rowsOf(of.blocks)
  return of.blocks.map((block) => gemmOuter(block, g, x, { rows, stride, add: of.add, forms }))
}

/** What the adapter reads of x, and the dispatches that make it. */
function readByAdapter(
  { dropped, index }: Adapter,
  x: number,
  columns: number,
  { rows, dropout: lost }: StackContext,
): { read: number; makes: NativeDispatch[] } {
  if (lost === undefined || dropped === undefined) return { read: x, makes: [] }
  return { read: dropped, makes: [dropout(x, dropped, rows * columns, { ...lost, module: index })] }
}

/** Columns of a matrix. */
const columnsOf = (weight: string, { blocks }: StackContext) => blocks(weight)[0]?.columns ?? 0

/** y = x · Wᵀ, and what an adapter adds to it. */
function adaptedProduct(
  weight: string,
  x: number,
  y: number,
  context: StackContext,
  adapter: Adapter | undefined,
): NativeDispatch[] {
  if (adapter === undefined) return product(weight, x, y, context)
  const { read, makes } = readByAdapter(adapter, x, columnsOf(weight, context), context)
  return [
    ...product(weight, x, y, context),
    ...makes,
    ...mixedFactors(adapter, context),
    ...adaptersOf(adapter).flatMap(({ a, b, scale, inner }) => [
      ...productTransposed(a, read, inner, context, { scale }),
      ...product(b, inner, y, context, { add: true }),
    ]),
  ]
}

/**
 * y = x · Wᵀ and what a DoRA adds to it that has lost elements of x, as PEFT has it: with z what is left of x and
 * c = magnitude / norms, (c - 1) z · Wᵀ + c scale (z Aᵀ) Bᵀ.
 */
function droppedProduct(
  weight: string,
  x: number,
  y: number,
  context: StackContext,
  { adapter, outer, makes, read }: Dropped,
): NativeDispatch[] {
  const { a, b, scale, inner } = adapter
  return [
    ...product(weight, x, y, context),
    ...makes,
    ...product(weight, read, outer, context),
    ...adaptedNorms(weight, adapter, context.blocks),
    ...addedByMagnitude(adapter, { x: outer, y }, context, { less: 1, add: true }),
    ...productTransposed(a, read, inner, context, { scale }),
    ...product(b, inner, outer, context),
    ...addedByMagnitude(adapter, { x: outer, y }, context, { less: 0, add: true }),
  ]
}

/** From the gradient g of what `droppedProduct` made of x, which is changed. */
function droppedGradient(
  weight: string,
  { x, g, to }: { x: number; g: number; to: ReturnType<BackwardContext['into']> },
  context: BackwardContext,
  { adapter, outer, dropped, makes, read, lost }: Dropped,
): NativeDispatch[] {
  const { a, b, scale, inner, innerGradient, index } = adapter
  const columns = columnsOf(weight, context)
  return [
    ...makes,
    ...product(weight, read, outer, context),
    ...productTransposed(a, read, inner, context, { scale }),
    ...product(b, inner, outer, context, { add: true }),
    ...magnitudeGradient(adapter, { x: outer, g }, context),
    ...productOuter(weight, g, x, context),
    ...(to.wanted ? productTransposed(weight, g, to.buffer, context, { add: to.add }) : []),
    // Gradients of what was left of x · Wᵀ, and of what the factors made of it.
    ...addedByMagnitude(adapter, { x: g, y: outer }, context, { less: 1, add: false }),
    ...scaledByMagnitude(adapter, g, context),
    ...productOuter(weight, outer, read, context),
    ...productOuter(b, g, inner, context),
    ...productTransposed(b, g, innerGradient, context, { scale }),
    ...productOuter(a, read, innerGradient, context),
    ...(to.wanted
      ? [
          ...productTransposed(weight, outer, dropped, context),
          ...product(a, innerGradient, dropped, context, { add: true }),
          dropout(dropped, to.buffer, context.rows * columns, { ...lost, module: index, add: true }),
        ]
      : []),
  ]
}

/** A DoRA that loses elements, where it does in this pass, and what it reads. */
function droppedDora(
  adapter: Adapter | undefined,
  x: number,
  columns: number,
  context: StackContext,
): Dropped | undefined {
  const { dropout: lost } = context
  if (adapter?.magnitude === undefined || adapter.dropped === undefined || lost === undefined) return undefined
  const { dropped, magnitude } = adapter
  return { adapter, dropped, outer: magnitude.outer, lost, ...readByAdapter(adapter, x, columns, context) }
}

type Dropped = ReturnType<typeof readByAdapter> & {
  adapter: Adapter
  dropped: number
  outer: number
  lost: Dropout
}

/** y += the gradient of x that comes through an adapter, after `innerGradient`. */
function adapterGradient(adapter: Adapter, y: number, columns: number, context: BackwardContext): NativeDispatch[] {
  const { a, innerGradient, dropped, index } = adapter
  const { rows, dropout: lost } = context
  if (lost === undefined || dropped === undefined) return product(a, innerGradient, y, context, { add: true })
  return [
    ...product(a, innerGradient, dropped, context),
    dropout(dropped, y, rows * columns, { ...lost, module: index, add: true }),
  ]
}

export const op: Op<Spec> = {
  reads: ({ x }) => [x],
  writes: ({ y }) => y,
  forward(spec, context) {
    const [x, y] = [context.activation(spec.x), context.activation(spec.y)]
    const adapter = context.adapter?.(spec.weight)
    const dropped = droppedDora(adapter, x, columnsOf(spec.weight, context), context)
    if (dropped !== undefined) {
      return [...droppedProduct(spec.weight, x, y, context, dropped), ...addBias(spec, context)]
    }
    return [
      ...adaptedProduct(spec.weight, x, y, context, adapter),
      ...(adapter === undefined
        ? []
        : [...adaptedNorms(spec.weight, adapter, context.blocks), ...scaledByMagnitude(adapter, y, context)]),
      ...addBias(spec, context),
    ]
  },
  keeps: ({ x, weight }, learns) => (learns(weight) ? [x] : []),
  backward(spec, context) {
    const [x, g] = [context.activation(spec.x), context.gradient(spec.y)]
    const to = context.into(spec.x)
    const adapter = context.adapter?.(spec.weight)
    const columns = columnsOf(spec.weight, context)
    const dropped = droppedDora(adapter, x, columns, context)
    if (dropped !== undefined) {
      return [...biasGradient(spec, context), ...droppedGradient(spec.weight, { x, g, to }, context, dropped)]
    }
    const { read, makes } = adapter ? readByAdapter(adapter, x, columns, context) : { read: x, makes: [] }
    // What the products share is computed again rather than kept for every matrix.
    const again =
      adapter === undefined
        ? []
        : adapter.magnitude === undefined
          ? [...makes, ...mixedFactors(adapter, context)]
          : [
              ...adaptedProduct(spec.weight, x, adapter.magnitude.outer, context, adapter),
              ...magnitudeGradient(adapter, { x: adapter.magnitude.outer, g }, context),
              // From here on, g is the gradient of the product before it was scaled.
              ...scaledByMagnitude(adapter, g, context),
            ]
    return [
      ...biasGradient(spec, context),
      ...again,
      ...productOuter(spec.weight, g, x, context),
      ...(to.wanted ? productTransposed(spec.weight, g, to.buffer, context, { add: to.add }) : []),
      ...(adapter === undefined
        ? []
        : [
            ...adaptersOf(adapter).flatMap((own) => [
              ...(own.magnitude === undefined
                ? productTransposed(own.a, read, own.inner, context, { scale: own.scale })
                : []),
              ...productOuter(own.expert === undefined ? own.b : adapter.b, g, own.inner, context),
              ...(own.expert === undefined ? [] : gradientOfOutput(adapter, own.expert, context)),
              ...productTransposed(own.b, g, own.innerGradient, context, { scale: own.scale }),
              ...productOuter(own.a, read, own.innerGradient, context),
              ...(to.wanted ? adapterGradient(own, to.buffer, columns, context) : []),
            ]),
            ...gradientOfMixture(adapter, context),
          ]),
    ]
  },
}

export const kernels = { gemm, gemmTransposed, gemmOuter }
