/**
 * The whole border between TypeScript and C++, in one file: what crosses it is plain data.
 *
 * TypeScript decides (names, recipes, layouts), C++ executes (threads, memory, GPU). A drift test compares
 * the functions named here with what the addon exports.
 */

/** Storage types a kernel can load. `F32`, `F16` and `BF16` can be stored too. */
export type LoadDType = 'F32' | 'F16' | 'BF16' | 'F64' | 'F8_E4M3' | 'F8_E5M2'
export type StoreDType = 'F32' | 'F16' | 'BF16'

/** One tensor of a safetensors header; `begin` and `end` are byte offsets from the start of the FILE. */
export interface NativeTensor {
  name: string
  dtype: string
  shape: number[]
  begin: number
  end: number
}

export interface NativeHeader {
  fileSize: number
  /** 8 + length of the JSON header. */
  dataStart: number
  /** SHA-256 (hex) of the first `dataStart` bytes. */
  headerHash: string
  metadata: Record<string, string>
  /** In order of offset. */
  tensors: NativeTensor[]
}

export interface NativeIndex {
  metadata: Record<string, unknown>
  weightMap: Record<string, string>
}

export interface NativeDeviceInfo {
  name: string
  vendor: string
  architecture: string
  driver: string
  type: 'discrete' | 'integrated' | 'cpu' | 'unknown'
  backend: string
  features: string[]
  limits: Record<string, number>
  /** Why nothing can be computed on it; empty where something can. */
  problem: string
}

export interface NativeDeviceList {
  /** In the order in which `open` tries them. */
  devices: NativeDeviceInfo[]
  /** What Dawn says of drivers that it refuses. */
  refused: string[]
}

export interface NativeOpenOptions {
  /** Path of the library that contains Dawn (dawn.node of the `webgpu` package, or any Dawn shared library). */
  dawn: string
  /** Path of a Vulkan loader to load before Dawn asks for one (bundled SwiftShader), with the ICD file to add. */
  vulkanLoader?: string
  icd?: string
  /** `auto`, a device type, or a case-insensitive part of the device's name. */
  device: string
  /** Host-mapped slots (`mapped`), staging copies (`staging`), or what suits the device (`auto`). */
  slots: 'auto' | 'mapped' | 'staging'
  /** Upper bounds put on the device's limits, for tests of tiling. */
  maxBufferBytes?: number
  /** A folder laid out as native/kernels that kernels are read from; absent: those that the addon holds. */
  kernels?: string
  /** Toggles of Dawn, for debugging; `-name` disables one. */
  toggles: string[]
  /** Print Dawn's own warnings to stderr. */
  verbose: boolean
}

export interface NativeDevice {
  readonly info: NativeDeviceInfo
  readonly slots: 'mapped' | 'staging'
  /** What `join` finds the engine by, in other threads of the process. */
  readonly id: number
  /** Runs a plan; rejects with a coded error. `onProgress` is called at most ten times a second. */
  run(plan: NativePlan, onProgress?: (event: NativeProgress) => void): NativeJob
  /** Makes buffers (sizes in bytes) that stay on the device until they are released; resolves with their number. */
  allocate(sizes: number[]): Promise<number>
  /** Writes into such buffers, then runs kernels on them in order, then reads; one array a read. */
  dispatch(resident: number, work: NativeWork): Promise<Uint8Array[]>
  release(resident: number): Promise<void>
  /** Ends the device and its thread; running plans reject with ERR_WEIGHTSMITH_DISPOSED. */
  close(): Promise<void>
  /** Makes Dawn report the device as lost; for tests. */
  forceLoss(): void
}

/** What is done with resident buffers, which are named by their index. */
export interface NativeWork {
  /** Memory is copied at the call; offsets are multiples of 4. */
  writes: ({ buffer: number; offset: number } & (
    | { memory: Uint8Array }
    | { path: string; begin: number; bytes: number }
  ))[]
  dispatches: NativeDispatch[]
  reads: { buffer: number; offset: number; bytes: number }[]
}

export interface NativeDispatch {
  kernel: string
  /** WGSL override constants. */
  constants?: Record<string, number>
  /** Binding 0: u32 words, at most 64. */
  parameters: number[]
  /** Bindings from 1. */
  buffers: number[]
  /** Workgroups: x, y, z. */
  grid: [number, number, number]
}

export interface NativeJob {
  done: Promise<NativeReport>
  abort(): void
}

export interface NativeProgress {
  bytesRead: number
  bytesWritten: number
  totalRead: number
  totalWrite: number
  tensor: string
}

/** Where bytes come from or go to: a file (by path) or memory of the caller. */
export type NativePlace = { path: string; size: number } | { memory: Uint8Array }

export interface NativePlan {
  inputs: NativePlace[]
  /** Files are created at their full size; `header` is written at offset 0. */
  outputs: (NativePlace & { header?: Uint8Array })[]
  programs: NativeProgram[]
  /**
   * In the order of the output's bytes, so that it is hashed as it is written. The engine packs neighbours of one
   * program and one set of dtypes into tiles.
   */
  jobs: NativeTensorJob[]
  /** Bytes the slots of this plan may take together. */
  memory: number
  seed: number
  /** Hash every output file while it is written (SHA-256). */
  checksum: boolean
  /** fsync the outputs before the promise settles. */
  sync: boolean
  /** Note finished jobs on disk, and with `resume` go on after those that an earlier run has noted there. */
  journal?: NativeJournal
}

export interface NativeJournal {
  path: string
  /** Hash of everything that decides about the outputs: notes of another run are not used. */
  run: string
  resume: boolean
  /** Bytes written between two notes (and 2 s at most). */
  every: number
}

/**
 * What is done with one class of tensors: kernels in order, each streaming over all tiles of a tensor. A CPU step
 * (float64, C++, native/steps/NAME.cpp) reads the partial results of one kernel and gives the
 * coefficients of the next; without one, every kernel gets the job's coefficients rounded to f32.
 */
export interface NativeProgram {
  cpuStep?: string
  /**
   * Rows (`across` false: `size` elements each) or columns (`across` true: `size` of them) that each have coefficients
   * of their own, which the CPU step gives.
   */
  lines?: NativeLines
  /** The CPU steps of all its jobs know each other; each kernel sees all jobs before the next one starts. */
  shared?: boolean
  /** Its kernels look at whole rows: jobs say how long one is. */
  rows?: boolean
  kernels: NativeKernelStep[]
}

export interface NativeLines {
  size: number
  across: boolean
}

export interface NativeKernelStep {
  kernel: string
  /** `output`: one stored element per element. A number: u32 words of partial result a block of 2,048 elements. */
  writes: 'output' | number
  /** WGSL override constants besides INPUTS, IN_DTYPE and OUT_DTYPE. */
  constants?: Record<string, number>
}

export interface NativeTensorJob {
  /** Output tensor; its FNV-1a-64 with the model ordinal keys the random numbers. */
  name: string
  /** Index into `programs`, or -1: copy the bytes of the one input. */
  program: number
  elements: number
  /** Elements of a row, where the program looks at rows. */
  row?: number
  /** `whole`: elements of an input that every tile reads completely; else there are as many as the job has. */
  inputs: { place: number; offset: number; dtype: string; whole?: number }[]
  /** What is computed from one read of the inputs: one result, or k of them in a sweep. All are stored as one dtype. */
  variants: NativeVariant[]
}

export interface NativeVariant {
  /** Numbers of the method for this tensor, float64; rounded to f32 where a kernel reads them directly. */
  coefficients: number[]
  /** Absent for a program that only reports (diff). */
  output?: { place: number; offset: number; dtype: string }
}

export interface NativeReport {
  /** Milliseconds: whole run and the busy time of each stage (they overlap, so they do not add up to `total`). */
  time: { total: number; read: number; compute: number; write: number; wait: number; sync: number; cpuSteps: number }
  bytesRead: number
  bytesWritten: number
  tiles: number
  /** NaN and Inf counted in what was stored, by earlier runs of the journal too. */
  nonFinite: number
  /** Jobs that were finished already. */
  resumed: number
  /**
   * What kernels counted among the elements that a variant of a job stored, where that is any: NaN and Inf; and, by
   * kernels that change their first input, elements that differ from it as stored, and elements that the rounding gave
   * back the value that they had.
   */
  counts: { job: number; variant: number; nonFinite: number; changed: number; swallowed: number }[]
  /** SHA-256 (hex) an output, where asked for. */
  checksums: string[]
  /** What the CPU steps of report-only programs returned: one row of numbers a job (diff). */
  results: Float64Array[]
}

export interface NativeScanning {
  done: Promise<NativeScan>
  abort(): void
  /** Read so far. */
  bytes(): number
}

export interface NativeScan {
  sha256: string
  /** With `weights`. */
  header?: NativeHeader
  nonFinite: { tensor: string; count: number }[]
}

/** Ends with `release`, or with the process. */
export interface NativeLock {
  release(): void
}

/** What a run would read, write and hold: from its plan alone, without a device. */
export interface NativeForecast {
  bytesRead: number
  bytesWritten: number
  tiles: number
  /** Bytes of all slots together. */
  memory: number
  /** One a job: how often its inputs are read, where no kernel has to run again. */
  passes: Uint32Array
}

export interface NativeQr {
  q: Float64Array<ArrayBuffer>
  r: Float64Array<ArrayBuffer>
}

export interface NativeSvd {
  u: Float64Array<ArrayBuffer>
  s: Float64Array<ArrayBuffer>
  v: Float64Array<ArrayBuffer>
}

/** Numbers measured on the caller's machine (doctor, bench). */
export interface NativeMemcpy {
  bytesPerSecond: number
}

/** The elements of a tensor in a file. */
export interface NativeStored {
  path: string
  begin: number
  elements: number
  /** F64, F32, F16 or BF16; others are refused with ERR_WEIGHTSMITH_DTYPE. */
  dtype: string
}

export interface NativeAddon {
  version: string
  errorCodes: string[]
  kernels: string[]
  cpuSteps: string[]
  /** The class that native errors are thrown as. Set once at load. */
  setErrorClass(cls: new (code: string, message: string) => Error): void
  readHeader(path: string): Promise<NativeHeader>
  readIndex(path: string): Promise<NativeIndex>
  sha256File(path: string): Promise<string>
  /** Hashes a file and, with `weights`, reads it as safetensors and counts its NaN and infinite values. */
  scanFile(path: string, weights: boolean): NativeScanning
  /** Locks a file, which is made where it is missing; throws ERR_WEIGHTSMITH_BUSY where another holder has it. */
  lockFile(path: string): NativeLock
  /** fsyncs files and folders, many at a time; rejects with the first failure. */
  syncFiles(paths: string[]): Promise<void>
  /** All devices that compute, best first; a trivial kernel is run on each. */
  devices(options: NativeOpenOptions): Promise<NativeDeviceList>
  forecast(plan: NativePlan, device: { maxBinding: number; slots: 'mapped' | 'staging' }): NativeForecast
  /** The engine that another thread has opened; it stays that thread's, and ends with it. */
  join(id: number): NativeDevice
  open(options: NativeOpenOptions): Promise<NativeDevice>
  /** Upper U [n, n] with (G + d I)⁻¹ = Uᵀ U, in float64 and rounded; d: damping times the mean of G's diagonal. */
  inverseFactor(gram: Float32Array, size: number, damping: number): Promise<Float32Array<ArrayBuffer>>
  /**
   * A = Q R in float64 by reflections, for A [rows, columns] with rows >= columns: q [rows, columns], r [columns,
   * columns] with a diagonal that is not negative, all row-major. Rejects what is not finite.
   */
  thinQr(matrix: Float32Array | Float64Array, rows: number, columns: number): Promise<NativeQr>
  /**
   * Orthonormal columns [rows, columns] that span those of a matrix with rows >= columns, in float64 and rounded to
   * f32; row-major. Rejects what is not finite.
   */
  orthonormal(matrix: Float32Array, rows: number, columns: number): Promise<Float32Array<ArrayBuffer>>
  /**
   * A = U diag(s) Vᵀ in float64, for A [rows, columns]: u [rows, k], v [columns, k], k the smaller of both, row-major.
   * s is descending; the largest component of each column of u is positive. The same bytes with any number of
   * threads. The time grows as rows · columns · k: 0.1 s for 256 x 256, 7 s for 1024 x 1024, on two cores. Rejects
   * what is not finite (ERR_WEIGHTSMITH_ARGUMENT).
   */
  smallSvd(matrix: Float32Array | Float64Array, rows: number, columns: number): Promise<NativeSvd>
  /**
   * A [rank, inputs] and B [outputs, rank] that an adapter of PiSSA or OLoRA begins with, from its weight [rows,
   * columns] in float64 and rounded; `transposed`: that is [inputs, outputs]. PiSSA divides by the scale.
   */
  adapterStart(
    weight: NativeStored,
    options: {
      rows: number
      columns: number
      transposed: boolean
      rank: number
      scale: number
      start: 'pissa' | 'olora'
    },
  ): Promise<{ a: Float32Array; b: Float32Array }>
  /**
   * Singular values of B A in float64, those of every expert descending, and whether all elements of A and B are
   * finite; there are none where they are not. See `LowRank` for the order of experts.
   */
  lowRankValues(
    a: NativeStored,
    b: NativeStored,
    sizes: { outputs: number; rank: number; inputs: number; experts: number; stacked: boolean },
  ): Promise<{ values: Float64Array; finiteA: boolean; finiteB: boolean }>
  /** A [rows, inner] times B [inner, columns], in float64 and rounded; for thin matrices. */
  thinProduct(
    a: Float32Array,
    b: Float64Array,
    rows: number,
    inner: number,
    columns: number,
  ): Promise<Float32Array<ArrayBuffer>>
  /** A kernel's text as Dawn compiles it, includes expanded; of a folder as in `NativeOpenOptions`. */
  kernelSource(name: string, folder?: string): string
  memcpyBandwidth(bytes: number): Promise<NativeMemcpy>
}
