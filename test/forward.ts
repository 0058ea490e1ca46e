/** One pass of a model that is opened for it, as tests of other things need it. */
import { type Engine, type Model, openModel } from 'weightsmith'

export async function forward(
  engine: Engine,
  path: string,
  ids: number[],
  wanted: Parameters<Model['run']>[1] = { logits: true },
): ReturnType<Model['run']> {
  const model = await openModel(engine, path, { batchTokens: ids.length })
  try {
    return await model.run(model.pack([ids]), wanted)
  } finally {
    await model.close()
  }
}
