/** Strategies live in a room of their own; this file goes when nothing asks for it here. */
export * from '../../subnets/index.js'
