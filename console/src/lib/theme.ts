// Light, dark, or what the system says.
import { signal } from '@preact/signals'

const NAME = 'polysystems-theme'
export type Theme = 'system' | 'light' | 'dark'

function stored(): Theme {
  try {
    const found = localStorage.getItem(NAME)
    return found === 'light' || found === 'dark' ? found : 'system'
  } catch {
    return 'system'
  }
}

export const theme = signal<Theme>(stored())
const dark = matchMedia('(prefers-color-scheme: dark)')
/** Counts each change of the colours, for what draws with them. */
export const colours = signal(0)
dark.addEventListener('change', () => colours.value++)

export function showTheme(): void {
  document.documentElement.dataset.theme = theme.value
}

export function chooseTheme(chosen: Theme): void {
  theme.value = chosen
  try {
    localStorage.setItem(NAME, chosen)
  } catch {
    // A browser that stores nothing forgets it with the tab.
  }
  showTheme()
  colours.value++
}

/** How many colours a chart has. */
export const COLOURS_MAX = 8
