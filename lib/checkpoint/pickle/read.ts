/**
 * Reads a pickle without executing anything. A pickle is a program for a machine with a stack; of its opcodes those
 * that make plain data are known here, and a name that Python would import stands for what an allow-list says, or is
 * refused. Memory is bounded by the size of the input, recursion does not occur, and what is nested or shared beyond
 * limits is refused, so that whoever walks through the result comes to an end.
 */

import { messageOf, WeightsmithError } from '../../util/errors.js'
import { Budget, PickleGlobal, type PickleGlobals, type PickleKey, PickleObject, type PickleValue } from './values.js'

/** Values that are made in all; a value takes up to some 200 bytes, and a byte of a pickle can make one. */
const mostValues = 1_000_000
/** Values that a walk through the result meets, where shared ones count every time. */
const mostMet = 10_000_000
/** Levels of containers. */
const deepest = 64
/** Characters of a name that would be imported; bytes of an integer. */
const longestName = 256
const longestInteger = 255
/** Bytes that arrays take, over those of the pickle: halves become singles, and text becomes bytes before that. */
const growth = 8

/** What a MARK leaves on the stack. */
const mark = Symbol('mark')
type Slot = PickleValue | typeof mark

/** All opcodes of protocol 5, so that a refusal can name what it found; true: those that are read. */
const opcodes: ReadonlyMap<number, readonly [name: string, read: boolean]> = new Map(
  Object.entries({
    read:
      '(MARK .STOP 0POP 1POP_MARK NNONE JBININT KBININT1 MBININT2 GBINFLOAT XBINUNICODE BBINBYTES CSHORT_BINBYTES ' +
      ']EMPTY_LIST aAPPEND eAPPENDS lLIST )EMPTY_TUPLE tTUPLE }EMPTY_DICT dDICT sSETITEM uSETITEMS qBINPUT ' +
      'rLONG_BINPUT hBINGET jLONG_BINGET cGLOBAL RREDUCE bBUILD \x80PROTO \x85TUPLE1 \x86TUPLE2 \x87TUPLE3 \x88NEWTRUE ' +
      '\x89NEWFALSE \x8aLONG1 \x8bLONG4 \x8cSHORT_BINUNICODE \x8dBINUNICODE8 \x8eBINBYTES8 \x93STACK_GLOBAL ' +
      '\x94MEMOIZE \x95FRAME \x96BYTEARRAY8',
    refused:
      '2DUP IINT LLONG SSTRING TBINSTRING USHORT_BINSTRING VUNICODE FFLOAT gGET pPUT iINST oOBJ PPERSID QBINPERSID ' +
      '\x81NEWOBJ \x82EXT1 \x83EXT2 \x84EXT4 \x8fEMPTY_SET \x90ADDITEMS \x91FROZENSET \x92NEWOBJ_EX \x97NEXT_BUFFER ' +
      '\x98READONLY_BUFFER',
  }).flatMap(([kind, words]) =>
    words.split(' ').map((word) => [word.charCodeAt(0), [word.slice(1), kind === 'read']] as const),
  ),
)

const text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

/**
 * The value that a pickle (protocol 2 to 5) holds: dicts as Maps, lists and tuples as arrays, bytes as Uint8Array,
 * integers beyond 2^53 as bigint, and what `globals` make. `file` names it in messages. Throws ERR_WEIGHTSMITH_FORMAT
 * for opcodes and globals that are not read, with their names, for what is cut off or contradicts itself, and for
 * limits: 1,000,000 values, 64 levels.
 */
export function readPickle(bytes: Uint8Array, globals: PickleGlobals, file: string): PickleValue {
  return new Machine(bytes, globals, file).run()
}

class Machine {
  private readonly view: DataView
  private readonly stack: Slot[] = []
  private readonly memo = new Map<number, PickleValue>()
  private readonly budget: Budget
  private at = 0
  /** Where the opcode begins that is being followed. */
  private begin = 0
  private made = 0

  constructor(
    private readonly bytes: Uint8Array,
    private readonly globals: PickleGlobals,
    private readonly file: string,
  ) {
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    this.budget = new Budget(growth * bytes.length + 4096)
  }

  run(): PickleValue {
    if (this.byte() !== 0x80) this.refuse('it does not begin with a protocol of 2 to 5')
    this.protocol()
    for (;;) {
      this.begin = this.at
      const code = this.byte()
      const [name, read] = opcodes.get(code) ?? [`0x${code.toString(16).padStart(2, '0')}`, false]
      if (!read) this.refuse(`it has the opcode ${name}, which is not read`)
      if (name === 'STOP') return this.stop()
      this.follow(name)
    }
  }

  private stop(): PickleValue {
    const value = this.pop()
    if (this.stack.length > 0) this.refuse(`it ends with ${this.stack.length + 1} values instead of one`)
    if (this.at !== this.bytes.length) this.refuse(`${this.bytes.length - this.at} bytes follow its end`)
    const wrong = unsound(value)
    if (wrong !== undefined) this.refuse(wrong)
    return value
  }

  private follow(name: string): void {
    switch (name) {
      case 'PROTO':
        this.protocol()
        break
      case 'FRAME':
        this.within(this.length8())
        break
      case 'MARK':
        this.stack.push(mark)
        break
      case 'POP':
        if (this.stack.pop() === undefined) this.short()
        break
      case 'POP_MARK':
        this.marked()
        break
      case 'NONE':
        this.push(null)
        break
      case 'NEWTRUE':
        this.push(true)
        break
      case 'NEWFALSE':
        this.push(false)
        break
      case 'BININT':
        this.push(this.view.getInt32(this.skip(4), true))
        break
      case 'BININT1':
        this.push(this.byte())
        break
      case 'BININT2':
        this.push(this.view.getUint16(this.skip(2), true))
        break
      case 'LONG1':
        this.push(this.integer(this.byte()))
        break
      case 'LONG4':
        this.push(this.integer(this.length4()))
        break
      case 'BINFLOAT':
        this.push(this.view.getFloat64(this.skip(8), false))
        break
      case 'SHORT_BINUNICODE':
        this.push(this.string(this.byte()))
        break
      case 'BINUNICODE':
        this.push(this.string(this.length4()))
        break
      case 'BINUNICODE8':
        this.push(this.string(this.length8()))
        break
      case 'SHORT_BINBYTES':
        this.push(this.take(this.byte()))
        break
      case 'BINBYTES':
        this.push(this.take(this.length4()))
        break
      case 'BINBYTES8':
      case 'BYTEARRAY8':
        this.push(this.take(this.length8()))
        break
      case 'EMPTY_LIST':
      case 'EMPTY_TUPLE':
        this.push([])
        break
      case 'LIST':
      case 'TUPLE':
        this.push(this.marked())
        break
      case 'TUPLE1':
      case 'TUPLE2':
      case 'TUPLE3':
        this.push(this.popMany(Number(name.at(-1))))
        break
      case 'APPEND':
        this.append([this.pop()])
        break
      case 'APPENDS':
        this.append(this.marked())
        break
      case 'EMPTY_DICT':
        this.push(new Map())
        break
      case 'DICT': {
        const items = this.marked()
        this.push(new Map())
        this.set(items)
        break
      }
      case 'SETITEM':
        this.set(this.popMany(2))
        break
      case 'SETITEMS':
        this.set(this.marked())
        break
      case 'BINPUT':
        this.put(this.byte())
        break
      case 'LONG_BINPUT':
        this.put(this.length4())
        break
      case 'MEMOIZE':
        this.put(this.memo.size)
        break
      case 'BINGET':
        this.get(this.byte())
        break
      case 'LONG_BINGET':
        this.get(this.length4())
        break
      case 'GLOBAL':
        this.global(this.line(), this.line())
        break
      case 'STACK_GLOBAL': {
        const [module, own] = this.popMany(2)
        if (typeof module !== 'string' || typeof own !== 'string') this.refuse('it imports what has no name')
        this.global(module, own)
        break
      }
      case 'REDUCE':
        this.reduce()
        break
      case 'BUILD':
        this.build()
        break
      default:
        throw new WeightsmithError('ERR_WEIGHTSMITH_INTERNAL', `Nothing follows the opcode ${name}.`)
    }
  }

  private protocol(): void {
    const version = this.byte()
    if (version < 2 || version > 5) this.refuse(`it has the protocol ${version}, and 2 to 5 are read`)
  }

  private global(module: string, own: string): void {
    const name = `${module}.${own}`
    const found = this.globals.get(name)
    if (found === undefined) {
      const shown = name.length > longestName ? `${name.slice(0, longestName)}…` : name
      this.refuse(`it names ${shown}, which is not among the few names that are read`)
    }
    this.push(found)
  }

  private reduce(): void {
    const [callee, args] = this.popMany(2)
    if (!(callee instanceof PickleGlobal)) this.refuse('it calls what is no function')
    if (callee.call === undefined || !Array.isArray(args)) this.refuse(`it calls ${callee.name}, which is no function`)
    const result = callee.call(args, this.budget)
    if (typeof result === 'string') this.refuse(`it calls ${callee.name} with ${result}`)
    this.push(result.value)
  }

  private build(): void {
    const state = this.pop()
    const object = this.top()
    if (!(object instanceof PickleObject)) this.refuse('it gives a state to what takes none')
    const wrong = object.build(state)
    if (wrong !== undefined) this.refuse(`it has ${object.kind} ${wrong}`)
  }

  private append(items: PickleValue[]): void {
    const list = this.top()
    if (!Array.isArray(list)) this.refuse('it appends to what is no list')
    for (const item of items) list.push(item)
  }

  private set(items: PickleValue[]): void {
    const dict = this.top()
    if (!(dict instanceof Map)) this.refuse('it sets an item of what is no dict')
    if (items.length % 2 !== 0) this.refuse('a key of a dict has no value')
    for (let i = 0; i < items.length; i += 2) {
      const key = items[i] as PickleValue
      if (typeof key === 'object' && key !== null) this.refuse('a key of a dict is neither a text nor a number')
      dict.set(key as PickleKey, items[i + 1] as PickleValue)
    }
  }

  private put(place: number): void {
    if (this.memo.size >= mostValues && !this.memo.has(place))
      this.refuse(`it remembers more than ${mostValues} values`)
    this.memo.set(place, this.top())
  }

  private get(place: number): void {
    const value = this.memo.get(place)
    if (value === undefined) this.refuse(`it remembers nothing at ${place}`)
    this.push(value)
  }

  private push(value: PickleValue): void {
    if (++this.made > mostValues) this.refuse(`it makes more than ${mostValues} values`)
    this.stack.push(value)
  }

  private pop(): PickleValue {
    const value = this.stack.pop()
    return value === undefined || value === mark ? this.short() : (value as PickleValue)
  }

  private popMany(count: number): PickleValue[] {
    const values = Array.from({ length: count }, () => this.pop())
    return values.reverse()
  }

  private top(): PickleValue {
    const value = this.stack.at(-1)
    return value === undefined || value === mark ? this.short() : (value as PickleValue)
  }

  /** What lies above the last mark, which goes too. */
  private marked(): PickleValue[] {
    const place = this.stack.lastIndexOf(mark)
    if (place < 0) this.short()
    const values = this.stack.splice(place) as PickleValue[]
    values.shift()
    return values
  }

  private short(): never {
    return this.refuse('its stack is too short for what follows')
  }

  private integer(size: number): number | bigint {
    if (size > longestInteger) this.refuse(`it has an integer of ${size} bytes`)
    const begin = this.skip(size)
    let value = 0n
    for (let i = size - 1; i >= 0; i--) value = (value << 8n) | BigInt(this.bytes[begin + i] ?? 0)
    const signed = BigInt.asIntN(8 * size, value)
    return Number.isSafeInteger(Number(signed)) ? Number(signed) : signed
  }

  private string(size: number): string {
    const begin = this.skip(size)
    try {
      return text.decode(this.bytes.subarray(begin, begin + size))
    } catch (cause) {
      return this.refuse(`a text in it is no UTF-8 (${messageOf(cause)})`)
    }
  }

  private take(size: number): Uint8Array {
    const begin = this.skip(size)
    return this.bytes.subarray(begin, begin + size)
  }

  private line(): string {
    const end = this.bytes.subarray(0, this.at + longestName + 1).indexOf(0x0a, this.at)
    if (end < 0) this.refuse('a name in it has no end')
    const name = this.string(end - this.at)
    this.at++
    return name
  }

  private byte(): number {
    return this.bytes[this.skip(1)] ?? 0
  }

  private length4(): number {
    return this.view.getUint32(this.skip(4), true)
  }

  private length8(): number {
    const size = this.view.getBigUint64(this.skip(8), true)
    return this.within(size > BigInt(Number.MAX_SAFE_INTEGER) ? Number.MAX_SAFE_INTEGER : Number(size))
  }

  /** Goes on behind `size` bytes; gives where they begin. */
  private skip(size: number): number {
    const begin = this.at
    this.at += this.within(size)
    return begin
  }

  private within(size: number): number {
    if (size > this.bytes.length - this.at) this.refuse('it is cut off')
    return size
  }

  private refuse(why: string): never {
    throw new WeightsmithError(
      'ERR_WEIGHTSMITH_FORMAT',
      `The pickle of ${this.file} is refused at byte ${this.begin}: ${why}. Nothing of it was executed.`,
      { file: this.file },
    )
  }
}

/** A container, and what was met in it so far: values in all, and levels. */
interface Frame {
  value: object
  parts: readonly PickleValue[]
  next: number
  met: number
  levels: number
}

/** Why a value is more than plain data that ends. */
function unsound(root: PickleValue): string | undefined {
  const finished = new Map<object, Frame>()
  const open = new Set<object>()
  const trail: Frame[] = [{ value: {}, parts: [root], next: 0, met: 0, levels: 0 }]
  const count = (owner: Frame | undefined, { met, levels }: Frame) => {
    if (owner === undefined) return
    owner.met += met
    owner.levels = Math.max(owner.levels, levels + 1)
  }
  for (let frame = trail.at(-1); frame !== undefined; frame = trail.at(-1)) {
    if (frame.met > mostMet) return `its values, where shared ones count every time, are more than ${mostMet}`
    if (Math.max(frame.levels, trail.length - 1) > deepest) return `it has more than ${deepest} levels`
    const part = frame.parts[frame.next++]
    if (part === undefined) {
      trail.pop()
      open.delete(frame.value)
      finished.set(frame.value, frame)
      count(trail.at(-1), frame)
      continue
    }
    const parts = partsOf(part)
    if (typeof parts === 'string') return parts
    if (parts === undefined) frame.met++
    else {
      const value = part as object
      const known = finished.get(value)
      if (open.has(value)) return 'a value in it contains itself'
      if (known !== undefined) count(frame, known)
      else {
        open.add(value)
        trail.push({ value, parts, next: 0, met: 1, levels: 1 })
      }
    }
  }
  return undefined
}

/** The values in a container; nothing for others; a text for what is no data. */
function partsOf(value: PickleValue): readonly PickleValue[] | string | undefined {
  if (Array.isArray(value)) return value
  if (value instanceof Map) return [...value.values()]
  if (value instanceof PickleGlobal) return `it has ${value.name} as data`
  if (value instanceof PickleObject) return value.parts() ?? `it has ${value.kind} without its content`
  return undefined
}
