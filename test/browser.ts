/**
 * A headless Chromium, out of the package that the embedded driver comes from too. It is driven by the DevTools
 * protocol over a pipe: JSON, each message ended by a zero byte.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import type { Readable, Writable } from 'node:stream'

interface Message {
  id?: number
  method?: string
  params?: Record<string, unknown>
  result?: Record<string, unknown>
  error?: { message: string }
}

const chromium = resolve('node_modules/@sparticuz/chromium')

/** The folder with the browser, its libraries and a font, unpacked once a version. */
function unpacked(): string {
  const { version } = JSON.parse(readFileSync(join(chromium, 'package.json'), 'utf8')) as { version: string }
  const folder = resolve(`build/chromium-${version}`)
  if (existsSync(folder)) return folder
  mkdirSync('build', { recursive: true })
  const fresh = mkdtempSync(`${folder}.`)
  const script = `const { inflate } = await import(process.argv[1]);
    for (const name of process.argv.slice(2)) await inflate(name)`
  const archives = ['chromium.br', 'al2023.tar.br', 'fonts.tar.br'].map((name) => join(chromium, 'bin', name))
  const entry = join(chromium, 'build/index.js')
  execFileSync(process.execPath, ['--input-type=module', '-e', script, entry, ...archives], {
    env: { ...process.env, TMPDIR: fresh },
  })
  try {
    renameSync(fresh, folder)
  } catch (error) {
    rmSync(fresh, { recursive: true, force: true })
    if (!existsSync(folder)) throw error // another process was faster
  }
  return folder
}

/** A page of the browser, and everything it complained about: console, exceptions, requests, security policy. */
export class Browser {
  readonly complaints: string[] = []
  private readonly process: ChildProcess
  private readonly profile = mkdtempSync(join(tmpdir(), 'weightsmith-browser-'))
  private readonly waiting = new Map<number, (message: Message) => void>()
  private readonly events = new Map<string, () => void>()
  private session: string | undefined
  private count = 0

  private constructor() {
    const folder = unpacked()
    const fonts = join(this.profile, 'fonts.conf')
    writeFileSync(fonts, `<fontconfig><dir>${folder}/fonts</dir><cachedir>${this.profile}</cachedir></fontconfig>`)
    const flags = [
      '--headless',
      '--no-sandbox',
      '--no-zygote',
      '--single-process',
      '--disable-gpu',
      '--hide-scrollbars',
    ]
    const pipe = ['--disable-software-rasterizer', '--remote-debugging-pipe', `--user-data-dir=${this.profile}`]
    this.process = spawn(join(folder, 'chromium'), [...flags, ...pipe, 'about:blank'], {
      env: { ...process.env, LD_LIBRARY_PATH: join(folder, 'al2023/lib'), FONTCONFIG_FILE: fonts },
      stdio: ['ignore', 'ignore', 'ignore', 'pipe', 'pipe'],
    })
    this.process.once('exit', (code, signal) => {
      const error = { message: `the browser ended with ${code ?? signal}` }
      for (const settle of this.waiting.values()) settle({ error })
    })
    let text = ''
    const from = this.process.stdio[4] as Readable
    from.setEncoding('utf8').on('data', (part: string) => {
      const messages = (text + part).split('\0')
      text = messages.pop() ?? ''
      for (const message of messages) this.receive(JSON.parse(message) as Message)
    })
  }

  static async open(): Promise<Browser> {
    const browser = new Browser()
    const { targetInfos } = (await browser.send('Target.getTargets')) as {
      targetInfos: { type: string; targetId: string }[]
    }
    const targetId = targetInfos.find(({ type }) => type === 'page')?.targetId
    const { sessionId } = await browser.send('Target.attachToTarget', { targetId, flatten: true })
    browser.session = sessionId as string
    for (const domain of ['Page', 'Runtime', 'Log', 'Network']) await browser.send(`${domain}.enable`)
    return browser
  }

  /** Opens a file at a width, in light or dark, and waits until it has loaded. */
  async show(file: string, { width = 1100, dark = false } = {}): Promise<void> {
    this.complaints.length = 0
    const features = [{ name: 'prefers-color-scheme', value: dark ? 'dark' : 'light' }]
    await this.send('Emulation.setEmulatedMedia', { features })
    await this.send('Emulation.setDeviceMetricsOverride', { width, height: 900, deviceScaleFactor: 1, mobile: false })
    const loaded = new Promise<void>((done) => this.events.set('Page.loadEventFired', done))
    await this.send('Page.navigate', { url: `file://${resolve(file)}` })
    await loaded
  }

  /** The value of an expression in the page. */
  async value<T>(expression: string): Promise<T> {
    const { result, exceptionDetails } = await this.send('Runtime.evaluate', { expression, returnByValue: true })
    if (exceptionDetails !== undefined) throw new Error(`${expression}: ${JSON.stringify(exceptionDetails)}`)
    return (result as { value: T }).value
  }

  async close(): Promise<void> {
    const ended = new Promise((done) => this.process.once('exit', done))
    this.process.kill('SIGKILL')
    await ended
    rmSync(this.profile, { recursive: true, force: true, maxRetries: 5 })
  }

  private async send(method: string, params: Record<string, unknown> = {}): Promise<Record<string, unknown>> {
    const id = ++this.count
    const answer = new Promise<Message>((done) => this.waiting.set(id, done))
    const to = this.process.stdio[3] as Writable
    to.write(`${JSON.stringify({ id, method, params, sessionId: this.session })}\0`)
    const { result = {}, error } = await answer
    if (error) throw new Error(`${method}: ${error.message}`)
    return result
  }

  private receive({ id, method = '', params = {}, ...message }: Message): void {
    if (id !== undefined) this.waiting.get(id)?.(message)
    this.events.get(method)?.()
    const url = (params.request as { url?: string } | undefined)?.url
    const foreign = method === 'Network.requestWillBeSent' && !url?.startsWith('file:')
    if (foreign || ['Runtime.consoleAPICalled', 'Runtime.exceptionThrown', 'Log.entryAdded'].includes(method)) {
      this.complaints.push(`${method} ${JSON.stringify(params)}`)
    }
  }
}
