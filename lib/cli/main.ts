#!/usr/bin/env node
/**
 * The command line. Results go to stdout (one JSON document with --json), everything else to stderr. Exit codes:
 * 0 done, 1 failed, 2 misuse, 130 interrupted (SIGINT), 143 terminated (SIGTERM).
 */

import { Command, CommanderError, Option } from 'commander'
import { type BatchOptions, batch } from '../batch.js'
import { diff } from '../diff.js'
import { doctor } from '../doctor.js'
import { Engine, type EngineOptions } from '../engine.js'
import { codeOf, messageOf, WeightsmithError } from '../errors.js'
import { metrics } from '../eval.js'
import { type ExplainOptions, explain } from '../explain.js'
import { analyze } from '../imm/analyze.js'
import { type ImmOptions, imm as runImm } from '../imm/loop.js'
import { inspect } from '../inspect.js'
import { type Layers, type ManuOptions, manu, manuModes, manuRows, manuStatistics, parts } from '../manu/index.js'
import { type MergeOptions, merge } from '../merge.js'
import { loadAddon } from '../native/load.js'
import { parseBytes } from '../plan/index.js'
import { type PruneMethod, type PruneOptions, prune, pruneMethods } from '../prune.js'
import { recipeSchema } from '../recipe/index.js'
import {
  analysisPage,
  diffPage,
  immPage,
  manuPage,
  type Page,
  prunePage,
  scorePage,
  writePage,
} from '../report/index.js'
import { scoreMethods } from '../score/index.js'
import { openScores, type ScoreOptions, score } from '../score.js'
import { verify } from '../verify.js'
import { version } from '../version.js'
import { analysisText } from './analysis.js'
import { batchText, showJobs } from './batch.js'
import { bench } from './bench.js'
import { explainText } from './explain.js'
import {
  type EvalFlags,
  evalText,
  type GenerateFlags,
  generateSummary,
  promptsOf,
  runEval,
  runGenerate,
} from './generate.js'
import { immText } from './imm.js'
import { manuText } from './manu.js'
import { showProgress } from './progress.js'
import {
  adapterText,
  benchText,
  diffText,
  doctorText,
  inspectText,
  mergeText,
  pruneText,
  scoreText,
  verifyText,
} from './texts.js'

const misuse: ReadonlySet<string> = new Set(['ERR_WEIGHTSMITH_ARGUMENT', 'ERR_WEIGHTSMITH_RECIPE'])

interface Common {
  json?: boolean
  adapter?: string
  memory?: string
}

interface MergeFlags extends Common {
  dtype?: string
  shardSize?: string
  seed?: number
  dryRun?: boolean
  overwrite?: boolean
  resume?: boolean
  journalEvery?: string
  checksum?: 'full' | 'outputs' | 'none'
  checkFinite?: boolean
}

/** A verb with `--report`. */
interface Reported {
  report?: string
}

const interruption = new AbortController()
/** Whether there is something to put in order on an interruption. */
let working = false
/** 128 + the number of the signal, as shells have it. */
let interruptedBy = 130

function main(): Promise<Command> {
  const program = new Command('weightsmith')
    .description('Merge, run, score, prune and check checkpoints of language models.')
    .version(version)
    .exitOverride()
    .showHelpAfterError('(add --help for the options)')
    .addHelpText('after', '\nExit codes: 0 done, 1 failed, 2 misuse, 130 interrupted, 143 terminated.')

  const json = () => new Option('--json', 'print one JSON document to stdout')
  const adapter = () =>
    new Option('--adapter <name>', "auto, discrete, integrated, cpu, or a part of the adapter's name").env(
      'WEIGHTSMITH_ADAPTER',
    )
  const memory = () => new Option('--memory <size>', 'what the buffers of a run may take together').default('1GiB')
  const seed = () =>
    new Option('--seed <number>', 'of the random numbers of DARE and IMM').argParser(wholeNumber('seed')).default(0)
  const report = () => new Option('--report <file>', 'write a report with figures: one HTML file, without scripts')
  const checksum = () =>
    new Option('--checksum <what>', 'SHA-256 of outputs, of inputs too, or of nothing')
      .choices(['full', 'outputs', 'none'])
      .default('outputs')

  program
    .command('merge')
    .description("merge checkpoints by a recipe (YAML with mergekit's keys)")
    .argument('<recipe>', 'the recipe file')
    .argument('<out>', 'the folder to write')
    .option('--dtype <type>', 'float32, float16 or bfloat16; goes before the recipe')
    .option('--shard-size <size>', 'largest size of a file (default: 5GB)')
    .addOption(memory())
    .addOption(seed())
    .addOption(adapter())
    .option('--dry-run', 'check everything and show the plan, write nothing')
    .option('--overwrite', 'replace the output folder if it is there, and discard an unfinished one')
    .option('--resume', 'continue the unfinished output of an earlier run, if there is one')
    .option('--journal-every <size>', 'bytes written between two notes that --resume goes on from (default: 256MiB)')
    .addOption(checksum())
    .option('--check-finite', 'fail if the result holds NaN or infinite values')
    .addOption(json())
    .addHelpText('after', '\nExample:\n  weightsmith merge ties.yml merged --dtype bfloat16')
    .action(runMerge)

  program
    .command('batch')
    .description('run many recipes through one engine; a job that fails does not stop the others')
    .argument('<jobs>', 'a .jsonl file, one {"recipe": ..., "name": ...} a line, or a folder of recipes')
    .argument('<out>', 'the folder to write, one folder a job')
    .addOption(new Option('--jobs <number>', 'jobs under way at a time').argParser(wholeNumber('jobs')).default(4))
    .option('--resume', 'skip jobs whose output is complete and made from the same recipe, seed and inputs')
    .option('--dtype <type>', 'float32, float16 or bfloat16; goes before the recipes')
    .option('--shard-size <size>', 'largest size of a file (default: 5GB)')
    .addOption(memory())
    .addOption(seed())
    .addOption(adapter())
    .option('--overwrite', 'replace output folders that are there')
    .addOption(checksum())
    .option('--check-finite', 'fail jobs whose result holds NaN or infinite values')
    .addOption(json())
    .addHelpText('after', '\nExample:\n  weightsmith batch recipes/ merged/ --jobs 4 --resume')
    .action(runBatch)

  program
    .command('explain')
    .description('show what a recipe would do and cost: parameters, passes, bytes, memory, disk, time')
    .argument('<recipe>', 'the recipe file')
    .option('--out <folder>', 'where the output is to be', '.')
    .option('--dtype <type>', 'float32, float16 or bfloat16; goes before the recipe')
    .option('--shard-size <size>', 'largest size of a file (default: 5GB)')
    .addOption(memory())
    .option('--measure', 'measure the disk and the kernels now; otherwise what doctor measured is taken')
    .addOption(adapter())
    .addOption(json())
    .addHelpText('after', '\nExample:\n  weightsmith explain ties.yml --memory 4GiB')
    .action(async (recipe: string, flags: Common & ExplainOptions) =>
      print(await explain(recipe, flags), explainText, flags),
    )

  program
    .command('inspect')
    .description('show tensors, types, shapes, shards and config of a checkpoint')
    .argument('<checkpoint>', 'a folder, a .safetensors file or org/name in the local cache')
    .addOption(json())
    .addHelpText('after', '\nExample:\n  weightsmith inspect ./merged')
    .action(async (checkpoint: string, flags: Common) => print(await inspect(checkpoint), inspectText, flags))

  program
    .command('diff')
    .description('show how far checkpoint B has moved from A, per layer and per module')
    .argument('<a>', 'where from')
    .argument('<b>', 'where to')
    .addOption(report())
    .addOption(memory())
    .addOption(adapter())
    .addOption(json())
    .addHelpText('after', '\nExample:\n  weightsmith diff ./base ./merged --report diff.html')
    .action(runDiff)

  program
    .command('generate')
    .description('continue prompts, greedy or drawn; many go through the model together')
    .argument('<model>', 'a folder or org/name in the local cache')
    .argument('[prompts...]', 'what to continue')
    .option('--data <file>', 'prompts: a .jsonl file ("prompt" or "messages"), a text with one a line, or - for stdin')
    .addOption(number('--max-tokens', 'most tokens of a continuation').default(64))
    .addOption(real('--temperature', 'what logits are divided by; 0 takes the likeliest token').default(0))
    .addOption(number('--top-k', 'only so many of the likeliest tokens; 0: all').default(0))
    .addOption(real('--top-p', 'only the likeliest tokens that together are as likely as this').default(1))
    .addOption(number('--seed', 'of the random numbers').default(0))
    .addOption(number('--samples', 'continuations of each prompt').default(1))
    .option('--stop <text...>', 'texts that end a continuation')
    .option('--chat', "prompts are messages in the model's chat template")
    .addOption(number('--limit', 'only so many prompts of the file'))
    .option(
      '--images <path>',
      'where images of prompts are: a folder, or a safetensors file with them (default: the folder of the data)',
    )
    .option('--out <file>', 'a .jsonl file, a continuation a line (default: stdout)')
    .option('--dry-run', 'check everything and show what it takes, run nothing')
    .addOption(memory())
    .addOption(adapter())
    .addOption(json())
    .addHelpText(
      'after',
      '\nExample:\n  weightsmith generate ./merged --data questions.jsonl --temperature 0.7 --samples 3 --out said.jsonl',
    )
    .action(async (model: string, given: string[], flags: Common & GenerateFlags) => {
      const prompts = await promptsOf(given, flags)
      await withEngine(flags, async (engine) => {
        const { report, shown } = await runGenerate(engine, model, prompts, flags, interruption.signal)
        if (shown) process.stderr.write(`${generateSummary(report)}\n`)
        else print(report, generateSummary, flags)
      })
    })

  program
    .command('eval')
    .description('run a model over prompts and answers: loss, perplexity, share of exact answers or of right choices')
    .argument('<model>', 'a folder or org/name in the local cache')
    .requiredOption(
      '--data <file...>',
      '.jsonl files, one {"prompt": ..., "answer": ...} a line, and maybe an "image"; for choice "choices"',
    )
    .option(
      '--images <path>',
      'folder of the images, or a safetensors file with them (default: the folder of the data)',
    )
    .addOption(new Option('--metric <name>', 'what to measure').choices(metrics).default('nll'))
    .addOption(
      number('--max-tokens', 'most tokens of a continuation, its end among them (default: as the longest answer)'),
    )
    .addOption(number('--limit', 'only so many lines of each file'))
    .option('--out <file>', 'a .jsonl file that gets what came out for every line')
    .addOption(memory())
    .addOption(adapter())
    .addOption(json())
    .addHelpText('after', '\nExample:\n  weightsmith eval ./merged --data test.jsonl --metric exact-match')
    .action(async (model: string, flags: Common & EvalFlags) =>
      withEngine(flags, async (engine) => {
        const reports = await runEval(engine, model, flags, interruption.signal)
        if (flags.json && reports.length === 1) print(reports[0], String, flags)
        else print(reports, evalText, flags)
      }),
    )

  program
    .command('score')
    .description('measure how important layers, neurons, heads and weights are, into a score file for prune')
    .argument('<model>', 'a folder or org/name in the local cache')
    .requiredOption(
      '--method <names>',
      `what to measure: ${[...scoreMethods.keys()].join(', ')}; several with commas`,
      words,
    )
    .option('--data <file>', 'a .jsonl file, one {"prompt": ..., "answer": ...} a line')
    .option(
      '--images <path>',
      'folder of the images, or a safetensors file with them (default: the folder of the data)',
    )
    .option('--out <file>', 'the score file to write')
    .option('--layers <list>', 'layers to measure, such as 0-3,7 (default: all)', wholeNumbers('layers'))
    .option('--tau <number>', 'neurons are active where |x| > tau', Number, 0.1)
    .option('--tokens <number>', 'tokens a pass (default: 1024)', wholeNumber('tokens'))
    .option('--samples <number>', 'so many lines of the data, chosen by the seed', wholeNumber('samples'))
    .addOption(new Option('--seed <number>', 'of the choice of lines').argParser(wholeNumber('seed')).default(0))
    .addOption(memory())
    .addOption(adapter())
    .option('--resume', 'go on where an interrupted run with the same options stood')
    .option('--dry-run', 'show what it would take, write nothing')
    .option('--overwrite', 'replace the score file if it is there')
    .addOption(report())
    .addOption(json())
    .addHelpText(
      'after',
      '\nExample:\n  weightsmith score ./base --method flap,bi --data train.jsonl --out base.scores',
    )
    .action(runScore)

  const imm = program.command('imm').description('iterative model merging: self-improvement without losing the rest')
  imm
    .command('analyze')
    .description('show where improved models have changed, against how important the layers are to their base')
    .argument('<base>', 'the original model')
    .argument('<improved...>', 'models that come from it')
    .option('--data <file>', 'a .jsonl file, one {"prompt": ..., "answer": ...} a line, to measure the importance on')
    .option('--scores <file>', 'a score file of the base (methods ablation, bi) instead of data')
    .addOption(report())
    .addOption(memory())
    .addOption(adapter())
    .addOption(json())
    .addHelpText(
      'after',
      '\nExample:\n  weightsmith imm analyze ./base ./round-1 ./round-2 --data train.jsonl --report analysis.html',
    )
    .action(runAnalyze)
  imm
    .command('run')
    .description('let a model learn from its own right answers in rounds, each merged with the original')
    .argument('<config>', 'a YAML file: model, questions, generate, filter, train, merge, evaluate')
    .argument('<out>', "the folder to write: every round's data, models and report")
    .addOption(number('--rounds', "rounds (default: the config's, or 3)"))
    .option('--resume', 'go on with the run in the folder, at the step it stopped in; where there is none, begin')
    .option('--overwrite', 'begin again where a run is')
    .option('--dry-run', 'check everything and show what it takes, write nothing')
    .addOption(report())
    .addOption(memory())
    .addOption(adapter())
    .addOption(json())
    .addHelpText('after', '\nExample:\n  weightsmith imm run examples/imm/config.yml improved --report imm.html')
    .action(runRounds)

  program
    .command('prune')
    .description('write a model without its least important weights, heads and neurons, or blocks')
    .argument('<model>', 'a folder or org/name in the local cache')
    .argument('<out>', 'the folder to write')
    .addOption(
      new Option('--method <name>', 'how scores are made and what goes')
        .choices(Object.keys(pruneMethods))
        .makeOptionMandatory(),
    )
    .option('--scores <file>', 'a file that score wrote; every method but magnitude needs it')
    .option(
      '--sparsity <share>',
      'magnitude, wanda, sparsegpt: share of the weights that become zeros (default: 0.5)',
      Number,
    )
    .option('--pattern <n:m>', 'magnitude, wanda, sparsegpt: of each m neighbours in a row n stay, as in 2:4')
    .option(
      '--keep <share>',
      'flap, wanda-sp: share of the parameters of heads and neurons that stays (default: 0.75)',
      Number,
    )
    .addOption(
      new Option('--widths <which>', 'flap, wanda-sp: one order over the model, or as many in every layer').choices([
        'global',
        'local',
      ]),
    )
    .addOption(new Option('--metric <name>', 'flap: what fluctuates').choices(['wifv', 'wifn', 'ifv']))
    .option('--no-bias', 'flap: do not make up for pruned inputs by a bias')
    .option('--remove <number>', 'bi, angular, ablation: how many blocks go (default: 1)', wholeNumber('remove'))
    .addOption(
      new Option('--tokens <which>', 'ablation: loss over all tokens or those of answers').choices(['all', 'answer']),
    )
    .addOption(
      new Option('--layout <how>', 'zeros in the same shapes, or smaller tensors')
        .choices(['masked', 'compact'])
        .default('masked'),
    )
    .addOption(memory())
    .addOption(adapter())
    .option('--dry-run', 'show what would go, write nothing')
    .option('--overwrite', 'replace the output folder if it is there')
    .addOption(report())
    .addOption(json())
    .addHelpText(
      'after',
      '\nExample:\n  weightsmith prune ./base ./small --method flap --scores base.scores --keep 0.75 --layout compact',
    )
    .action(runPrune)

  program
    .command('manu')
    .description('unlearn by neurons: those that answer to what is to be forgotten become zeros, nothing is trained')
    .argument('<model>', 'a folder or org/name in the local cache')
    .requiredOption('--forget <files...>', '.jsonl files of what to forget; lines with an "image" are multimodal')
    .requiredOption('--retain <files...>', '.jsonl files of what to retain')
    .option('--utility <files...>', '.jsonl files that are asked before and after')
    .option(
      '--images <path>',
      'folder of the images, or a safetensors file with them (default: the folder of each file)',
    )
    .option('--out <folder>', 'the checkpoint to write; with a sweep a folder of them')
    .addOption(new Option('--mode <name>', 'how neurons are scored').choices(manuModes).default('code'))
    .addOption(real('--alpha', 'per cent of the neurons of each tower').default(2).conflicts('sweep'))
    .option('--sweep <list>', 'several alphas, such as 1,2,3,5,10, from one measurement', percents)
    .addOption(
      real('--max-retain-drop', 'write only the largest alpha that costs retain no more per cent of its answers'),
    )
    .option('--layers <list>', 'last3, all, or such as 0-3,7 (default: last3, in paper mode all)', layersOf)
    .option('--weights <list>', 'of the importances, such as abs=2,freq=0,var=2,rms=2', weightsOf)
    .addOption(real('--tau', 'what |z| has to be above to count as active').default(0.1))
    .addOption(
      new Option('--statistics <name>', 'over all tokens, or as the published code')
        .choices(manuStatistics)
        .default('stream'),
    )
    .addOption(number('--batch', 'lines of a batch, for those statistics').default(4))
    .addOption(number('--iterations', 'rounds, each of which measures again and takes alpha more').default(1))
    .option('--compat-pool-layers', 'let modules of a kind share the statistics of all layers, as the published code')
    .option('--compact', 'leave coupled neurons out instead of zeros')
    .option('--compare', 'ask with as many random neurons, and those of the smallest weights, too')
    .option('--no-ask', 'do not ask the sets before and after')
    .option('--scores <file>', 'keeps what is measured; where it is there already, nothing is measured again')
    .addOption(number('--ask-lines', 'lines of each set that are asked, chosen by the seed (default: all)'))
    .addOption(number('--seed', 'of samples and random neurons').default(0))
    .addOption(report())
    .addOption(memory())
    .addOption(adapter())
    .option('--dry-run', 'show what it would take, write nothing')
    .option('--overwrite', 'replace the output if it is there')
    .addOption(json())
    .addHelpText(
      'after',
      '\nExample:\n  weightsmith manu ./llava --forget forget.jsonl --retain retain.jsonl --sweep 1,2,3,5 --max-retain-drop 1 --out ./unlearned',
    )
    .action(runManu)

  program
    .command('verify')
    .description('check an output against its manifest: sizes, SHA-256, layout, type, index, and finite values')
    .argument('<out>', 'a folder that merge wrote')
    .option('--allow-non-finite', 'take NaN and infinite values as they are')
    .addOption(json())
    .addHelpText('after', '\nExample:\n  weightsmith verify ./merged')
    .action(runVerify)

  program
    .command('doctor')
    .description('show adapters, drivers, limits and bandwidths, and what to install')
    .option('--folder <path>', 'whose disk to measure', '.')
    .addOption(adapter())
    .addOption(json())
    .addHelpText('after', '\nExample:\n  weightsmith doctor --folder /data')
    .action(async (flags: Common & { folder: string }) =>
      print(await doctor({ adapter: flags.adapter, folder: flags.folder }), doctorText, flags),
    )

  program
    .command('bench')
    .description('time the kernels on this device')
    .argument('[kernel]', 'one kernel; all of them by default')
    .option('--dtype <type>', 'float32, float16 or bfloat16', 'bfloat16')
    .option('--size <size>', 'bytes of an input', '16MiB')
    .addOption(memory())
    .addOption(adapter())
    .addOption(json())
    .addHelpText('after', '\nExample:\n  weightsmith bench linear --size 128MiB')
    .action(runBench)

  program
    .command('schema')
    .description('print the JSON Schema of recipes, for editors')
    .addOption(json())
    .addHelpText('after', '\nExample:\n  weightsmith schema > recipe.schema.json')
    .action(() => print(recipeSchema(), String, { json: true }))

  return program.parseAsync()
}

async function runMerge(recipe: string, out: string, flags: MergeFlags): Promise<void> {
  const options: MergeOptions = {
    out,
    dtype: flags.dtype,
    shardSize: flags.shardSize,
    memory: flags.memory,
    seed: flags.seed,
    dryRun: flags.dryRun,
    overwrite: flags.overwrite,
    resume: flags.resume,
    journalEvery: flags.journalEvery,
    checksum: flags.checksum,
    checkFinite: flags.checkFinite,
    signal: interruption.signal,
  }
  // A plan needs no device, so a dry run works anywhere, and a bad recipe is refused before a device is opened.
  const dry = await merge({ addon: loadAddon(), version }, recipe, { ...options, dryRun: true })
  if (flags.dryRun) return print(dry, mergeText, flags)
  await withEngine(flags, async (engine) => {
    const progress = showProgress('merge', flags.json === true)
    try {
      const report = await engine.use(({ addon, device }) =>
        merge({ addon, device, version }, recipe, { ...options, onProgress: progress.update }),
      )
      progress.stop()
      print(report, mergeText, flags)
    } finally {
      progress.stop()
    }
  })
}

async function runVerify(out: string, flags: Common & { allowNonFinite?: boolean }): Promise<void> {
  const progress = showProgress('verify', flags.json === true)
  working = true
  try {
    const options = { finite: flags.allowNonFinite !== true, signal: interruption.signal, onProgress: progress.update }
    const report = await verify(out, options)
    progress.stop()
    print(report, verifyText, flags)
  } finally {
    progress.stop()
  }
}

async function runBatch(jobs: string, out: string, flags: Common & BatchOptions): Promise<void> {
  await withEngine(flags, async (engine) => {
    const onJob = showJobs(flags.json === true)
    const report = await batch(engine, jobs, { ...flags, out, signal: interruption.signal, onJob })
    print(report, batchText, flags)
    if (report.failed > 0) process.exitCode = 1
  })
}

async function runDiff(a: string, b: string, flags: Common & Reported): Promise<void> {
  await withEngine(flags, async (engine) => {
    const progress = showProgress('diff', flags.json === true)
    try {
      const report = await diff(engine, a, b, { signal: interruption.signal, onProgress: progress.update })
      progress.stop()
      await writeReport(flags, () => diffPage(report))
      print(report, diffText, flags)
    } finally {
      progress.stop()
    }
  })
}

async function runAnalyze(
  base: string,
  improved: string[],
  flags: Common & Reported & { data?: string; scores?: string },
): Promise<void> {
  await withEngine(flags, async (engine) => {
    const progress = showProgress('analyze', flags.json === true)
    try {
      const { data, scores } = flags
      const report = await analyze(engine, base, improved, {
        data,
        scores,
        signal: interruption.signal,
        onProgress: progress.step,
      })
      progress.stop()
      await writeReport(flags, () => analysisPage(report))
      print(report, analysisText, flags)
    } finally {
      progress.stop()
    }
  })
}

async function runRounds(
  config: string,
  out: string,
  flags: Common & Reported & Omit<ImmOptions, 'out'>,
): Promise<void> {
  const { rounds, resume, overwrite, dryRun } = flags
  await withEngine(flags, async (engine) => {
    const progress = showProgress('imm', flags.json === true)
    try {
      const report = await runImm(engine, config, {
        out,
        rounds,
        resume,
        overwrite,
        dryRun,
        signal: interruption.signal,
        onProgress: ({ round, rounds: last, step, done, total }) =>
          progress.step(done, total, `round ${round} of ${last}, ${step}`),
      })
      progress.stop()
      if (!report.dryRun) await writeReport(flags, () => immPage(report))
      print(report, immText, flags)
    } finally {
      progress.stop()
    }
  })
}

async function runScore(model: string, flags: Common & Reported & ScoreOptions & { method: string[] }): Promise<void> {
  await withEngine(flags, async (engine) => {
    const progress = showProgress('score', flags.json === true)
    try {
      const options = { ...flags, methods: flags.method, signal: interruption.signal, onProgress: progress.step }
      const report = await score(engine, model, options)
      progress.stop()
      const { out } = report
      if (out !== undefined && !report.dryRun) {
        await writeReport(flags, async () => scorePage(report, await openScores(engine, out)))
      }
      print(report, scoreText, flags)
    } finally {
      progress.stop()
    }
  })
}

async function runBench(kernel: string | undefined, flags: Common & { dtype: string; size: string }): Promise<void> {
  const size = parseBytes(flags.size, 'size')
  await withEngine(flags, async (engine) =>
    print(await bench(engine, { kernel, dtype: flags.dtype, size, signal: interruption.signal }), benchText, flags),
  )
}

async function withEngine(flags: Common, work: (engine: Engine) => Promise<void>): Promise<void> {
  const options: EngineOptions = { adapter: flags.adapter, memory: flags.memory }
  working = true
  const engine = await Engine.open(options)
  try {
    if (!flags.json && engine.adapter.type === 'cpu') {
      process.stderr.write(`No GPU is in use: ${adapterText(engine.adapter)}.\n`)
    }
    await work(engine)
  } finally {
    await engine.close()
  }
}

type PruneFlags = Omit<PruneOptions, 'out'> & { method: PruneMethod }

async function runPrune(
  model: string,
  out: string,
  { bias, json, adapter, memory, report: page, ...flags }: Common & Reported & PruneFlags,
): Promise<void> {
  const common = { json, adapter, memory } as Common
  await withEngine(common, async (engine) => {
    const progress = showProgress('prune', json === true)
    try {
      const options = { ...flags, ...(bias === false ? { bias } : {}), out }
      const report = await prune(engine, model, {
        ...options,
        signal: interruption.signal,
        onProgress: (bytesWritten, totalWrite) =>
          progress.update({ bytesRead: 0, totalRead: 0, bytesWritten, totalWrite, tensor: '' }),
      })
      progress.stop()
      if (!report.dryRun) {
        const same = report.layout === 'masked'
        await writeReport({ report: page }, async () =>
          prunePage(report, same ? await diff(engine, model, out, { signal: interruption.signal }) : undefined),
        )
      }
      print(report, pruneText, common)
    } finally {
      progress.stop()
    }
  })
}

async function runManu(
  model: string,
  {
    sweep,
    compatPoolLayers,
    ...flags
  }: Common & Reported & ManuOptions & { sweep?: number[]; compatPoolLayers?: boolean },
): Promise<void> {
  await withEngine(flags, async (engine) => {
    const progress = showProgress('manu', flags.json === true)
    try {
      const options = { ...flags, alpha: sweep ?? flags.alpha, poolLayers: compatPoolLayers }
      const found = await manu(engine, model, {
        ...options,
        signal: interruption.signal,
        onProgress: (done, total) => progress.step(done, total),
      })
      progress.stop()
      await writeReport(flags, () => manuPage(found, manuRows(found)))
      print(found, manuText, flags)
    } finally {
      progress.stop()
    }
  })
}

function percents(text: string): number[] {
  return words(text).map((word) => {
    const value = Number(word)
    if (Number.isFinite(value)) return value
    throw new WeightsmithError(
      'ERR_WEIGHTSMITH_ARGUMENT',
      `The option sweep should be numbers with commas, but "${word}" was found.`,
    )
  })
}

function layersOf(text: string): Layers {
  return text === 'all' || text === 'last3' ? text : wholeNumbers('layers')(text)
}

function weightsOf(text: string): Record<string, number> {
  return Object.fromEntries(
    words(text).map((word) => {
      const [name = '', value = ''] = word.split('=')
      if (parts.some((part) => part === name) && value !== '' && Number.isFinite(Number(value)))
        return [name, Number(value)]
      throw new WeightsmithError(
        'ERR_WEIGHTSMITH_ARGUMENT',
        `The option weights should be such as abs=2,rms=1 with ${parts.join(', ')}, but "${word}" was found.`,
      )
    }),
  )
}

function words(text: string): string[] {
  return text.split(',').filter((word) => word !== '')
}

/** `0-3,7`: whole numbers and ranges of them. */
function wholeNumbers(option: string): (text: string) => number[] {
  const number = wholeNumber(option)
  return (text) =>
    words(text).flatMap((part) => {
      const [first = 0, last = first] = part.split('-').map(number)
      return Array.from({ length: Math.max(0, last - first + 1) }, (_, i) => first + i)
    })
}

function number(flag: string, text: string): Option {
  return new Option(`${flag} <number>`, text).argParser(wholeNumber(flag.slice(2)))
}

function real(flag: string, text: string): Option {
  return new Option(`${flag} <number>`, text).argParser((given) => {
    const value = given.trim() === '' ? Number.NaN : Number(given)
    if (Number.isFinite(value)) return value
    throw new WeightsmithError(
      'ERR_WEIGHTSMITH_ARGUMENT',
      `The option ${flag.slice(2)} should be a number, but "${given}" was found.`,
    )
  })
}

function wholeNumber(option: string): (text: string) => number {
  return (text) => {
    const value = Number(text)
    if (/^\d+$/.test(text) && Number.isSafeInteger(value)) return value
    throw new WeightsmithError(
      'ERR_WEIGHTSMITH_ARGUMENT',
      `The option ${option} should be a whole number from 0 to 2^53 - 1, but "${text}" was found.`,
    )
  }
}

function print<T>(report: T, text: (report: T) => string, { json }: Common): void {
  process.stdout.write(`${json ? JSON.stringify(report, null, 2) : text(report)}\n`)
}

async function writeReport({ report }: Reported, page: () => Page | Promise<Page>): Promise<void> {
  if (report !== undefined) await writePage(report, await page())
}

function fail(error: unknown): number {
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2
  const code = codeOf(error)
  const interrupted = interruption.signal.aborted && code === 'ERR_WEIGHTSMITH_ABORTED'
  const message = interrupted ? 'Interrupted; nothing unfinished has its final name.' : messageOf(error)
  const { partial, problems } = error instanceof WeightsmithError ? error : {}
  const resume = partial === undefined ? undefined : resumeCommand()
  if (process.argv.includes('--json')) {
    const report = { code: code ?? 'ERR_WEIGHTSMITH_INTERNAL', message, problems, partial, resume }
    process.stdout.write(`${JSON.stringify({ error: report }, null, 2)}\n`)
  }
  process.stderr.write(`weightsmith: ${message}${code === undefined || interrupted ? '' : ` [${code}]`}\n`)
  if (resume !== undefined) {
    process.stderr.write(`weightsmith: What is finished is kept in ${partial}; to continue: ${resume}\n`)
  }
  if (code === undefined && error instanceof Error && process.env.NODE_DEBUG?.includes('weightsmith')) {
    process.stderr.write(`${error.stack}\n`)
  }
  return interrupted ? interruptedBy : code !== undefined && misuse.has(code) ? 2 : 1
}

/** The command that was given, with --resume, for a POSIX shell. */
function resumeCommand(): string {
  const given = process.argv.slice(2)
  const words = given.includes('--resume') ? given : [...given, '--resume']
  const quoted = words.map((word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`))
  return [process.env.npm_command === 'exec' ? 'npx weightsmith' : 'weightsmith', ...quoted].join(' ')
}

/** The first interruption ends the work in good order; a second one, or one without work, ends the process. */
function onInterrupt(code: number): void {
  interruptedBy = code
  if (!working || interruption.signal.aborted) process.exit(code)
  interruption.abort()
}

process.on('SIGINT', () => onInterrupt(130))
process.on('SIGTERM', () => onInterrupt(143))
// A reader that has seen enough (`| head`) is no failure.
process.stdout.on('error', (error) => process.exit(codeOf(error) === 'EPIPE' ? 0 : 1))

main().catch((error: unknown) => {
  process.exitCode = fail(error)
})
