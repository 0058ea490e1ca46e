/** What a pickle can hold once it is read: plain data, and the few objects that an allow-list makes. */

/** Of a Map; Python's numbers are equal whatever their type, and so are these. */
export type PickleKey = string | number | bigint | boolean | null

export type PickleValue =
  | PickleKey
  | Uint8Array
  | PickleValue[]
  | Map<PickleKey, PickleValue>
  | PickleObject
  | PickleGlobal

/** Something that a global of the allow-list has made. */
export abstract class PickleObject {
  /** In messages. */
  abstract readonly kind: string
  /** Takes the state that BUILD gives; returns why it cannot. */
  abstract build(state: PickleValue): string | undefined
  /** The values within; nothing for what is no data by itself, such as an array without its elements. */
  abstract parts(): readonly PickleValue[] | undefined
}

/** A name of the allow-list: what Python would import. */
export class PickleGlobal {
  constructor(
    readonly name: string,
    /** What REDUCE makes of arguments; a text says why it makes nothing of them. Without it the name is an argument. */
    readonly call?: (args: readonly PickleValue[], budget: Budget) => { value: PickleValue } | string,
  ) {}
}

/** By `module.name`. */
export type PickleGlobals = ReadonlyMap<string, PickleGlobal>

/** Bytes that may be made of a file, so that one string in it cannot become a thousand arrays. */
export class Budget {
  constructor(private left: number) {}

  /** Whether there was room. */
  take(bytes: number): boolean {
    this.left -= bytes
    return this.left >= 0
  }
}
