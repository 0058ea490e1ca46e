/** Images become what transformers' processor with Pillow makes of them, and what cannot be used is refused by name. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { Images } from '../lib/data/images/index.js'
import { loadAddon } from '../lib/native/load.js'
import { readSafetensors, values, writeModel, writeSafetensors } from './checkpoint.js'

const goldens = join(process.cwd(), 'test/peers/images')
const settings = JSON.parse(readFileSync(join(goldens, 'settings.json'), 'utf8')) as Record<string, object>
const tensors = readSafetensors(join(goldens, 'pixels.safetensors'))
const sizes: Record<string, number> = { shrunk: 12, grown: 50, lanczos: 20 }

let root: string
beforeAll(() => {
  root = mkdtempSync(join(tmpdir(), 'weightsmith-images-'))
  writeModel(root, {})
})
afterAll(() => rmSync(root, { recursive: true, force: true }))

/** The images of a folder in front of a model with these settings. */
async function images(config: object, size: number, folder = goldens): Promise<Images> {
  writeFileSync(join(root, 'preprocessor_config.json'), JSON.stringify(config))
  const checkpoint = { name: 'it', path: root, folder: root, files: [], tensors: new Map(), stacks: new Map() }
  return Images.open(loadAddon(), checkpoint, size, { root: folder })
}

test.each([...tensors.keys()])('%s', async (key) => {
  const [name, kind] = key.split('/') as [string, string]
  const got = await (await images(settings[kind]!, sizes[kind]!)).pixels(name)
  const want = values(tensors.get(key)!)
  expect(got.length).toBe(want.length)
  // Decoders of JPEG may round a byte otherwise.
  const tolerance = name.endsWith('jpg') ? 0.02 : 1e-6
  expect(got.reduce((most, value, i) => Math.max(most, Math.abs(value - want[i]!)), 0)).toBeLessThan(tolerance)
})

describe('images of other kinds', () => {
  const plain = { do_resize: false, do_center_crop: false, do_normalize: false, rescale_factor: 0.5 }
  const data = Uint8Array.from({ length: 3 * 2 * 2 * 3 }, (_, i) => i)

  test('are rows of a tensor, or pixels that are given', async () => {
    const file = join(root, 'images.safetensors')
    writeSafetensors(file, { images: { dtype: 'U8', shape: [3, 2, 2, 3], bytes: Buffer.from(data) } })
    const want = [12, 15, 18, 21, 13, 16, 19, 22, 14, 17, 20, 23].map((value) => value / 2)
    for (const folder of [root, file]) {
      expect([...(await (await images(plain, 2, folder)).pixels(1))]).toEqual(want)
    }
    const given = { data: data.subarray(12, 24), width: 2, height: 2, channels: 3 }
    expect([...(await (await images(plain, 2)).pixels(given))]).toEqual(want)
  })

  test('are inks, which become colours as in Pillow', async () => {
    const bytes = { do_resize: false, do_center_crop: false, do_normalize: false, rescale_factor: 1 }
    const got = await (await images(bytes, 16)).pixels('cmyk.jpg')
    const want = JSON.parse(readFileSync(join(goldens, 'cmyk.json'), 'utf8')) as number[]
    expect(want.length).toBe(got.length)
    // of planes, where the golden bytes are of pixels; a decoder may round a byte otherwise
    const off = want.map((value, i) => Math.abs(value - got[(i % 3) * 256 + Math.floor(i / 3)]!))
    expect(Math.max(...off)).toBeLessThanOrEqual(2)
  })

  test('are refused where they are missing, broken or of another size', async () => {
    const refused = async (work: Promise<unknown>, code: string, message: RegExp) =>
      expect(work).rejects.toMatchObject({ code: `ERR_WEIGHTSMITH_${code}`, message: expect.stringMatching(message) })
    const folder = await images(plain, 2, root)
    await refused(folder.pixels('none.png'), 'NOT_FOUND', /none\.png/)
    await refused(folder.pixels(3), 'ARGUMENT', /no image 3 in .*images\.safetensors, which has 3/)
    await refused(folder.pixels('config.json'), 'FORMAT', /config\.json cannot be read as an image/)
    await refused((await images(plain, 2)).pixels('wide.png'), 'ARGUMENT', /61 x 37 pixels.*sees 2 x 2/)
    await refused((await images(plain, 2)).pixels(0), 'NOT_FOUND', /images\.safetensors/)
    await refused(folder.pixels({ data, width: 2, height: 2, channels: 3 }), 'ARGUMENT', /36 bytes.*have 12/)
    await refused(
      images({ image_processor_type: 'SiglipImageProcessor', resample: 0, size: 'big', do_pad: true }, 2),
      'FORMAT',
      /the processor SiglipImageProcessor, a size, resampling by the filter 0, a crop_size, three numbers.*padding/,
    )
  })
})
