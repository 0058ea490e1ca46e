/**
 * The folder this file runs from. A `.cts` file stays CommonJS in both builds, so `__dirname` works where ES modules
 * would need `import.meta` and CommonJS must not have it.
 */
export const here: string = __dirname
