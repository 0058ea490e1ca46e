/** How a report looks, in light and in dark: colours are variables that figures name, so that they follow too. */

/** Colours of a scale, from nothing to most. */
const light = ['#f2f6fb', '#dbe8f6', '#bdd7ee', '#94bfe2', '#66a3d4', '#3f86c1', '#2269a8', '#0f4c87', '#08305d']
const dark = ['#182230', '#1b3148', '#1d4162', '#22557f', '#2b6c9d', '#3d86ba', '#5ea3d1', '#8ec3e5', '#c8e5f8']

/** Colours of lines, apart in hue and in lightness. */
const lightLines = ['#1f6fb5', '#d1600a', '#2a8a4a', '#a32f6f', '#6a51c4', '#8a6a00', '#0b8a96', '#59636e']
const darkLines = ['#6db3f2', '#ff9d57', '#6bd08b', '#f088bd', '#b1a0ff', '#e0bd4d', '#54cfdb', '#aab4bf']

export const steps = light.length
export const lines = lightLines.length

const variables = (prefix: string, values: readonly string[]) =>
  values.map((value, i) => `--${prefix}${i}:${value}`).join(';')

/** Writing on a cell: dark on light cells, and the other way round. */
const inks = (pale: string, deep: string) =>
  variables(
    'i',
    light.map((_, i) => (i < 5 ? pale : deep)),
  )

export const style = `
:root{color-scheme:light dark;--paper:#fff;--ink:#17212d;--dim:#5a6675;--line:#dfe5ec;--card:#f7f9fb;--mark:#1f6fb5;
${variables('h', light)};${variables('c', lightLines)};${inks('#17212d', '#fff')}}
@media(prefers-color-scheme:dark){:root{--paper:#0e141b;--ink:#e4eaf1;--dim:#93a0af;--line:#263241;--card:#141c26;
--mark:#6db3f2;${variables('h', dark)};${variables('c', darkLines)};${inks('#e4eaf1', '#0b1118')}}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.55 system-ui,-apple-system,"Segoe UI",sans-serif}
header,main,footer{max-width:1000px;margin:0 auto;padding:0 24px}
header{padding-top:44px;padding-bottom:6px}
h1{font-size:28px;line-height:1.2;letter-spacing:-.015em;margin:0 0 8px;text-wrap:balance}
h2{font-size:18px;line-height:1.3;letter-spacing:-.005em;margin:0 0 4px}
p{margin:0;color:var(--dim);max-width:78ch}
dl{display:flex;flex-wrap:wrap;gap:8px;margin:18px 0 0}
dl div{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:6px 12px;min-width:0}
dt{font-size:11.5px;color:var(--dim)}
dd{margin:0;font-weight:600;overflow-wrap:anywhere;font-variant-numeric:tabular-nums}
section{padding:26px 0;border-bottom:1px solid var(--line);break-inside:avoid}
section:last-child{border-bottom:0}
figure{margin:16px 0 0}
.wide{overflow-x:auto;overflow-y:hidden}
svg{display:block;height:auto;max-width:100%;min-width:560px;font-family:inherit}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:13.5px;min-width:40%}
th,td{padding:6px 14px 6px 0;text-align:left;border-bottom:1px solid var(--line);white-space:nowrap}
thead th{color:var(--dim);font-weight:600;border-bottom-width:2px}
tbody th{font-weight:500}
.right{text-align:right;padding:6px 0 6px 18px}
.right+:not(.right){padding-left:18px}
tbody tr:hover{background:var(--card)}
.scale{display:flex;align-items:center;gap:10px;margin:0 0 10px;font-size:12.5px;color:var(--dim)}
.scale .ramp{display:flex;border:1px solid var(--line);border-radius:4px;overflow:hidden}
.scale .ramp i{width:24px;height:12px}
.keys{display:flex;flex-wrap:wrap;gap:4px 18px;margin:0 0 8px;font-size:13px}
.keys span{display:flex;align-items:center;gap:7px}
.keys i{width:16px;height:6px;border-radius:2px;box-shadow:0 0 0 1px var(--line)}
details{margin-top:10px;font-size:13.5px;color:var(--dim)}
summary{cursor:pointer;width:max-content}
details .wide{margin-top:8px;color:var(--ink)}
footer{padding-top:14px;padding-bottom:44px;font-size:12.5px;color:var(--dim)}
:focus-visible{outline:2px solid var(--mark);outline-offset:2px}
@media print{header{padding-top:0}details{display:none}}
`
