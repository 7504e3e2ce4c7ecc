import { render } from 'preact'
import { App } from './app'
import { load, wasHere } from './lib/session'
import { showTheme } from './lib/theme'

showTheme()
void load()
// The pages are on their way while the server is asked who is there; before a sign-in, when its page is shown.
setTimeout(() => void import('./pages'), wasHere() ? 0 : 1000)
render(<App />, document.getElementById('app') as HTMLElement)
