/**
 * From bytes of pixels to what a model sees: the steps of its preprocessor_config.json, as CLIPImageProcessor of
 * transformers makes them with Pillow.
 */

import { WeightsmithError } from '../../util/errors.js'
import { isFilter, type Raw, resize } from './resample.js'

export type Settings = Readonly<Record<string, unknown>>

/** Gives [channels, height, width], f32. `name`: the image in messages. */
export type Process = (image: Raw, name: string) => Float32Array

/** Processors that do the same steps in the same order. */
const known = ['CLIPImageProcessor', 'CLIPImageProcessorFast', 'CLIPFeatureExtractor', 'CLIPImageProcessorPil']

/** `size`: pixels a side of what the model sees. Throws ERR_WEIGHTSMITH_FORMAT with what is missing. */
export function processorOf(settings: Settings, size: number, file: string): Process {
  const type = String(settings.image_processor_type ?? settings.feature_extractor_type ?? known[0])
  const filter = Number(settings.resample ?? 3)
  const edge = shortest(settings.size)
  const crop = sides(settings.crop_size)
  const scale = settings.do_rescale === false ? 1 : Number(settings.rescale_factor ?? 1 / 255)
  const normalized = settings.do_normalize !== false
  const [means, deviations] = [settings.image_mean, settings.image_std]
  const resized = settings.do_resize !== false
  const cropped = settings.do_center_crop !== false
  const missing = [
    !known.includes(type) && `the processor ${type}`,
    resized && edge === undefined && sides(settings.size) === undefined && 'a size',
    resized && !isFilter(filter) && `resampling by the filter ${filter}`,
    cropped && crop === undefined && 'a crop_size',
    normalized && !(isTriple(means) && isTriple(deviations)) && 'three numbers of image_mean and image_std',
    settings.do_pad === true && 'padding',
  ].filter((what) => what !== false)
  if (missing.length > 0) {
    throw new WeightsmithError(
      'ERR_WEIGHTSMITH_FORMAT',
      `Images cannot be made ready as ${file} says: what it needs and is missing is ${missing.join(', ')}.`,
      { file },
    )
  }

  const target = ({ width, height }: Raw): [width: number, height: number] => {
    if (edge === undefined) return sides(settings.size) ?? [width, height]
    // Pillow's callers cut the longer side off to whole pixels.
    const longer = Math.trunc((edge * Math.max(width, height)) / Math.min(width, height))
    return width <= height ? [edge, longer] : [longer, edge]
  }
  return (image, name) => {
    const fitted = resized ? resize(image, ...target(image), filter) : image
    const [width, height] = cropped && crop !== undefined ? crop : [fitted.width, fitted.height]
    if (fitted.width < width || fitted.height < height || width !== size || height !== size) {
      throw new WeightsmithError(
        'ERR_WEIGHTSMITH_ARGUMENT',
        `The image ${name} has ${image.width} x ${image.height} pixels, which ${file} makes ${fitted.width} x ` +
          `${fitted.height}; the model sees ${size} x ${size}.`,
      )
    }
    const [top, left] = [Math.floor((fitted.height - height) / 2), Math.floor((fitted.width - width) / 2)]
    const { channels } = fitted
    const result = new Float32Array(channels * height * width)
    for (let c = 0, at = 0; c < channels; c++) {
      const mean = normalized && isTriple(means) ? (means[c] ?? 0) : 0
      const deviation = normalized && isTriple(deviations) ? (deviations[c] ?? 1) : 1
      for (let y = 0; y < height; y++) {
        for (let x = 0; x < width; x++) {
          const value = fitted.data[((top + y) * fitted.width + left + x) * channels + c] ?? 0
          result[at++] = (value * scale - mean) / deviation
        }
      }
    }
    return result
  }
}

/** The edge of `{"shortest_edge": n}`, or of n itself. */
function shortest(size: unknown): number | undefined {
  const { shortest_edge: edge } = (size ?? {}) as Settings
  if (typeof edge === 'number') return edge
  return typeof size === 'number' ? size : undefined
}

function sides(size: unknown): [width: number, height: number] | undefined {
  if (typeof size === 'number') return [size, size]
  const { width, height } = (size ?? {}) as Settings
  return typeof width === 'number' && typeof height === 'number' ? [width, height] : undefined
}

function isTriple(value: unknown): value is number[] {
  return Array.isArray(value) && value.length === 3 && value.every((one) => typeof one === 'number')
}
