// Bars over time, stacked by group. The axis begins at zero. A table with the same numbers stands beside each chart.
import { useEffect, useRef } from 'preact/hooks'
import uPlot from 'uplot'
import { COLOURS_MAX, colours } from '../lib/theme'

export interface Series {
  name: string
  values: number[]
  /** The exact amounts, if it is of money. */
  amounts?: string[]
}

export default function Chart({
  times,
  series,
  show,
  label,
  onPick,
  interval,
}: {
  /** The beginnings of the periods, in seconds. */
  times: number[]
  /** From the bottom up. */
  series: Series[]
  show: (value: number) => string
  label: string
  interval: string
  onPick?: ((index: number) => void) | undefined
}) {
  const box = useRef<HTMLDivElement>(null)
  const tip = useRef<HTMLDivElement>(null)
  const picked = useRef(onPick)
  picked.current = onPick
  const version = colours.value
  useEffect(() => {
    const element = box.current
    if (!element || times.length === 0) return
    const css = getComputedStyle(document.documentElement)
    const probe = document.createElement('span')
    element.append(probe)
    // A custom property may be `light-dark(...)`: only a used colour is one that a canvas knows.
    const colour = (name: string) => {
      probe.style.color = `var(${name})`
      return getComputedStyle(probe).color
    }
    const fills = series.map((_, index) => colour(`--chart-${(index % COLOURS_MAX) + 1}`))
    const [line, text] = [colour('--line'), colour('--muted')]
    probe.remove()
    const sums = times.map(() => 0)
    const stacked = series.map(({ values }) =>
      values.map((value, index) => (sums[index] = (sums[index] ?? 0) + value)),
    )
    // The highest is drawn first, so that each lower one covers its part of it.
    const order = stacked.map((_, index) => index).reverse()
    const step = interval === 'hour' ? 3600 : interval === 'month' ? 28 * 86_400 : 86_400
    const font = `12px ${css.fontFamily || 'sans-serif'}`
    const bars = uPlot.paths.bars?.({ size: [0.72, 48], radius: 0.12 })
    const plot = new uPlot(
      {
        width: element.clientWidth,
        height: 240,
        padding: [12, 4, 0, 0],
        legend: { show: false },
        cursor: { y: false, drag: { x: false, y: false }, points: { show: false } },
        tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), 'Etc/UTC'),
        scales: {
          x: { time: true, range: (_, from, until) => [from - step / 2, Math.max(until, from) + step / 2] },
          y: { range: (_, __, most) => [0, most > 0 ? most * 1.08 : 1] },
        },
        axes: [
          { stroke: text, font, grid: { show: false }, ticks: { stroke: line, size: 4 }, space: 64 },
          {
            stroke: text,
            font,
            size: (_, values) => 16 + 7 * Math.max(4, ...(values ?? []).map((value) => value.length)),
            grid: { stroke: line, width: 1 },
            ticks: { show: false },
            values: (_, splits) => splits.map(show),
            space: 44,
          },
        ],
        series: [
          {},
          ...order.map((index) => ({
            ...(bars ? { paths: bars } : {}),
            fill: fills[index] as string,
            width: 0,
            points: { show: false },
          })),
        ],
        hooks: {
          setCursor: [
            (self) => {
              const hint = tip.current
              const index = self.cursor.idx
              if (!hint) return
              if (index == null || (self.cursor.left ?? -1) < 0) {
                hint.hidden = true
                return
              }
              const when = new Date((times[index] ?? 0) * 1000)
              const name = when.toLocaleString(
                undefined,
                interval === 'hour'
                  ? { dateStyle: 'medium', timeStyle: 'short', timeZone: 'UTC' }
                  : { dateStyle: 'medium', timeZone: 'UTC' },
              )
              const parts = series
                .map(({ name: part, values }, place) => ({ part, value: values[index] ?? 0, place }))
                .filter(({ value }) => value > 0)
                .reverse()
              hint.replaceChildren(
                ...[
                  `${name}: ${show(sums[index] ?? 0)}`,
                  ...(series.length > 1 ? parts.map(({ part, value }) => `${part}: ${show(value)}`) : []),
                ].map((words) => {
                  const row = document.createElement('span')
                  row.textContent = words
                  return row
                }),
              )
              hint.hidden = false
              const left = self.valToPos(times[index] ?? 0, 'x') + self.bbox.left / devicePixelRatio
              const right = element.clientWidth - hint.offsetWidth
              hint.style.left = `${Math.min(Math.max(left - hint.offsetWidth / 2, 0), right)}px`
            },
          ],
        },
      },
      [times, ...order.map((index) => stacked[index] as number[])],
      element,
    )
    plot.over.addEventListener('click', () => {
      if (plot.cursor.idx != null) picked.current?.(plot.cursor.idx)
    })
    const observer = new ResizeObserver(() => plot.setSize({ width: element.clientWidth, height: 240 }))
    observer.observe(element)
    return () => {
      observer.disconnect()
      plot.destroy()
    }
  }, [times, series, version, interval])
  return (
    <figure class="chart">
      <div class={`chart-box ${onPick ? 'picks' : ''}`} role="img" aria-label={label} ref={box} />
      <div class="chart-tip" ref={tip} hidden aria-hidden="true" />
    </figure>
  )
}
