/**
 * Images in front of a model that sees: PNG, JPEG and whatever else sharp reads (libvips, with prebuilt binaries for
 * every platform; loaded when the first such file is), rows of a safetensors tensor, or pixels of the caller.
 */

import { open } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import type { Checkpoint } from '../../checkpoint/index.js'
import { inside, readSmall } from '../../checkpoint/index.js'
import type { NativeAddon, NativeTensor } from '../../native/border.js'
import { messageOf, WeightsmithError } from '../../util/errors.js'
import { type Process, processorOf, type Settings } from './processor.js'
import type { Raw } from './resample.js'

/** A file by name, a row of the tensor `images` (U8 [n, height, width, 3]) by number, or bytes of pixels in rows. */
export type ImageSource = string | number | Raw

export interface ImageOptions {
  /** Where files are looked for, or the safetensors file with the tensor `images`; `images.safetensors` in a folder. */
  root?: string | undefined
}

/** Bytes of an image file; more than any camera's. */
const largestImage = 1e9
const largestSettings = 16e6

/** Reads images and makes them ready as the checkpoint's preprocessor_config.json says. */
export class Images {
  private constructor(
    private readonly addon: Pick<NativeAddon, 'readHeader'>,
    private readonly process: Process,
    private readonly root: string | undefined,
    private table: Promise<{ path: string; tensor: NativeTensor; start: number }> | undefined,
  ) {}

  /** `size`: pixels a side of what the model sees. */
  static async open(
    addon: Pick<NativeAddon, 'readHeader'>,
    checkpoint: Checkpoint,
    size: number,
    { root }: ImageOptions = {},
  ): Promise<Images> {
    const file = join(checkpoint.folder ?? dirname(checkpoint.path), 'preprocessor_config.json')
    const bytes = await readSmall(file, largestSettings)
    let settings: Settings
    try {
      settings = JSON.parse(bytes.toString('utf8')) as Settings
      if (typeof settings !== 'object' || settings === null) throw new Error('it is not an object')
    } catch (cause) {
      throw new WeightsmithError('ERR_WEIGHTSMITH_FORMAT', `${file} is not valid: ${messageOf(cause)}.`, {
        cause,
        file,
      })
    }
    return new Images(addon, processorOf(settings, size, file), root, undefined)
  }

  /** What a model sees of an image: [3, size, size], f32. */
  async pixels(source: ImageSource): Promise<Float32Array> {
    const [image, name] = await this.raw(source)
    if (image.channels !== 3 || image.data.length !== image.width * image.height * 3 || image.data.length === 0) {
      throw new WeightsmithError(
        'ERR_WEIGHTSMITH_ARGUMENT',
        `The image ${name} has ${image.data.length} bytes, but ${image.width} x ${image.height} pixels of 3 have ` +
          `${image.width * image.height * 3}.`,
      )
    }
    return this.process(image, name)
  }

  private async raw(source: ImageSource): Promise<[Raw, name: string]> {
    if (typeof source === 'number') return this.row(source)
    if (typeof source !== 'string') return [source, 'given']
    const file = await inside(this.root ?? '.', source)
    return [await decode(file, await readSmall(file, largestImage)), source]
  }

  private async row(index: number): Promise<[Raw, name: string]> {
    this.table ??= this.openTable()
    const { path, tensor, start } = await this.table
    const [rows = 0, height = 0, width = 0, channels = 0] = tensor.shape
    if (!Number.isInteger(index) || index < 0 || index >= rows) {
      throw new WeightsmithError(
        'ERR_WEIGHTSMITH_ARGUMENT',
        `There is no image ${index} in ${path}, which has ${rows}.`,
      )
    }
    const data = new Uint8Array(height * width * channels)
    const file = await open(path)
    try {
      const { bytesRead } = await file.read(data, 0, data.length, start + index * data.length)
      if (bytesRead < data.length) throw new WeightsmithError('ERR_WEIGHTSMITH_IO_READ', `${path} ends too early.`)
    } finally {
      await file.close()
    }
    return [{ data, width, height, channels }, `${index} of ${basename(path)}`]
  }

  private async openTable() {
    const root = this.root ?? '.'
    const path = root.endsWith('.safetensors') ? root : await inside(root, 'images.safetensors')
    const { tensors } = await this.addon.readHeader(path)
    const tensor = tensors.find(({ name }) => name === 'images')
    if (tensor === undefined || tensor.dtype !== 'U8' || tensor.shape.length !== 4 || tensor.shape[3] !== 3) {
      throw new WeightsmithError(
        'ERR_WEIGHTSMITH_FORMAT',
        `${path} has no tensor images of U8 [n, height, width, 3].`,
        {
          file: path,
        },
      )
    }
    return { path, tensor, start: tensor.begin }
  }
}

/**
 * Red, green and blue of cyan, magenta, yellow and black as Pillow has them: no profile says what the inks look like.
 */
function fromInks(inks: Uint8Array): Uint8Array {
  const rgb = new Uint8Array((inks.length / 4) * 3)
  for (let i = 0, pixel = 0; i < rgb.length; i += 3, pixel += 4) {
    const light = 255 - (inks[pixel + 3] ?? 0)
    for (let c = 0; c < 3; c++) rgb[i + c] = light - Math.round(((inks[pixel + c] ?? 0) * light) / 255)
  }
  return rgb
}

/** Bytes of pixels as transformers has them: on white where they are transparent, and without colour management. */
async function decode(file: string, bytes: Buffer): Promise<Raw> {
  const { default: sharp } = await import('sharp').catch((cause: unknown) => {
    throw new WeightsmithError(
      'ERR_WEIGHTSMITH_LOAD',
      `sharp, which reads images, does not load: ${messageOf(cause)}.`,
      {
        cause,
      },
    )
  })
  try {
    if ((await sharp(bytes).metadata()).space === 'cmyk') {
      const inks = sharp(bytes, { ignoreIcc: true }).pipelineColourspace('cmyk').toColourspace('cmyk').raw()
      const { data, info } = await inks.toBuffer({ resolveWithObject: true })
      return { data: fromInks(data), width: info.width, height: info.height, channels: 3 }
    }
    const { data: rgba, info } = await sharp(bytes, { ignoreIcc: true })
      .toColourspace('srgb')
      .ensureAlpha()
      .raw()
      .toBuffer({ resolveWithObject: true })
    const data = new Uint8Array(3 * info.width * info.height)
    for (let i = 0, pixel = 0; i < data.length; i += 3, pixel += 4) {
      const alpha = rgba[pixel + 3] ?? 255
      for (let c = 0; c < 3; c++) data[i + c] = Math.round(((rgba[pixel + c] ?? 0) * alpha) / 255 + 255 - alpha)
    }
    return { data, width: info.width, height: info.height, channels: 3 }
  } catch (cause) {
    throw new WeightsmithError('ERR_WEIGHTSMITH_FORMAT', `${file} cannot be read as an image: ${messageOf(cause)}.`, {
      cause,
      file,
    })
  }
}
