/**
 * Documents name what is there. A path is a word that begins with a folder of the repository (`lib/...`), a file name
 * of source code in backticks (`verb.ts`), a folder in backticks (`cli/`, also of lib/ or native/), or the target of a
 * link. Words with NAME or ... in them stand for others.
 */
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs'
import { basename, dirname, join, normalize } from 'node:path'
import { describe, expect, test } from '@jest/globals'

const folders = ['bench', 'demo', 'docs', 'examples', 'lib', 'native', 'scripts', 'test']
const walk = (folder: string) =>
  readdirSync(folder, { recursive: true, encoding: 'utf8' }).map((name) => join(folder, name))
const files = [...readdirSync('.'), ...folders.flatMap(walk)]
const documents = files.filter((path) => path.endsWith('.md'))
const names = new Set(files.map((path) => basename(path)))

/** What commands of documents write. */
const products = /^demo\/out\b/
const pattern = (path: string) => /NAME|\.\.\./.test(path) || products.test(path)

/** Anchors of a page, as GitHub makes them of its headings. */
const anchors = (text: string) =>
  [...text.matchAll(/^#+ (.*)$/gm)].map(([, title]) =>
    title!
      .toLowerCase()
      .replace(/[^\p{L}\p{N}\s_-]/gu, '')
      .replaceAll(' ', '-'),
  )

/** What a document names and is not there. */
function missing(path: string, text: string): string[] {
  const here = dirname(path)
  const word = new RegExp(`(?<![\\w./{-])(?:${folders.join('|')})/[\\w./-]*\\w`, 'g')
  const spans = [...text.replace(/^```[\s\S]*?^```/gm, '').matchAll(/`([^`\s]+)`/g)].map(([, span]) => span!)
  const places = (folder: string) => ['', 'lib', 'native', here].map((start) => join(start, folder))
  const links = [...text.matchAll(/\]\(([^)\s]+)\)/g)].map(([, to]) => to!).filter((to) => !/^\w+:/.test(to))
  return [
    ...[...text.matchAll(word)].map(([found]) => found).filter((found) => !pattern(found) && !existsSync(found)),
    ...spans.filter((span) => /^\w+\.(ts|mjs|cpp|h|wgsl|py)$/.test(span) && !pattern(span) && !names.has(span)),
    ...spans.filter((span) => /^[\w/]+\/$/.test(span) && !pattern(span) && !places(span).some((at) => existsSync(at))),
    ...links.filter((to) => {
      const [file = '', anchor] = to.split('#')
      const target = file === '' ? path : normalize(join(here, file))
      if (!existsSync(target)) return true
      return anchor !== undefined && !anchors(readFileSync(target, 'utf8')).includes(anchor)
    }),
  ]
}

describe('documents', () => {
  test.each(documents)('%s names files, folders and headings that exist', (path) => {
    expect(missing(path, readFileSync(path, 'utf8'))).toEqual([])
  })

  test.each([
    ['a path', 'see lib/merge/nowhere.ts.', ['lib/merge/nowhere.ts']],
    ['a path in a command', '```\nnode examples/nowhere.mjs\n```', ['examples/nowhere.mjs']],
    ['a file name', 'see `nowhere.wgsl`', ['nowhere.wgsl']],
    ['a folder', 'the room `nowhere/`', ['nowhere/']],
    ['a link', '[it](nowhere.md)', ['nowhere.md']],
    ['a heading', '[it](../README.md#nowhere)', ['../README.md#nowhere']],
  ])('with %s that is missing would be seen', (_, text, found) => {
    expect(missing('docs/page.md', text)).toEqual(found)
  })

  test('while these are no such paths', () => {
    const text =
      '`lib/cli/NAME.ts`, `merge/`, `verb.ts`, [a page](methods.md#linear), docs/methods.md, `train.log`, and/or'
    expect(missing('docs/page.md', text)).toEqual([])
  })

  test('the README is short', () => {
    expect(readFileSync('README.md', 'utf8').split('\n').length - 1).toBeLessThanOrEqual(130)
  })

  const guides = documents.filter((path) => /^docs\/adding-[\w-]+\.md$/.test(path))
  test.each(guides)('%s names the files that something of its kind consists of', (path) => {
    const named = new Set(readFileSync(path, 'utf8').match(/(?<=`)(lib|native|test)\/[\w./-]+\.\w+(?=`)/g))
    const there = [...named].filter((name) => existsSync(name) && statSync(name).isFile())
    expect(there.length).toBeGreaterThanOrEqual(5)
  })

  test('tell how to add each kind of thing', () => {
    const kinds = guides.map((path) => path.replace(/^docs\/adding-an?-(.*)\.md$/, '$1')).sort()
    expect(kinds).toEqual(['architecture', 'kernel', 'method', 'verb', 'workflow'])
  })
})
