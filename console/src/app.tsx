// Which page an address is.
import type { ComponentType } from 'preact'
import { useEffect, useState } from 'preact/hooks'
import { Route, Router, Switch, useLocation } from 'wouter-preact'
import { navigate } from 'wouter-preact/use-browser-location'
import { ended, get } from './lib/api'
import { ROOT, to } from './lib/nav'
import { isOperator, load, signedOut, unreachable, user } from './lib/session'
import { SignIn } from './pages/sign-in'
import { Shell } from './shell'
import { Dialogs } from './ui/form'
import { Failure, Said } from './ui/parts'

type AnyPage = ComponentType<any>

/**
 * Pages whose script comes when one of them is wanted. After an upgrade its old name is gone: then everything is read
 * again, once.
 */
function lazy<Module extends Record<string, AnyPage>>(read: () => Promise<Module>) {
  let found: Module | undefined
  return (name: keyof Module & string): AnyPage =>
    function Lazy(props) {
      const [, arrived] = useState(false)
      useEffect(() => {
        if (found) return
        read().then(
          (module) => {
            found = module
            arrived(true)
          },
          () => {
            if (sessionStorage.getItem('reloaded') === location.href) return
            sessionStorage.setItem('reloaded', location.href)
            location.reload()
          },
        )
      }, [])
      const Page = found?.[name]
      return Page ? <Page {...props} /> : null
    }
}

const page = lazy(() => import('./pages'))
const operate = lazy(() => import('./operate'))

const PUBLIC: [string, AnyPage][] = [
  ['/sign-in', SignIn],
  ['/sign-up', page('SignUp')],
  ['/verify', page('Verify')],
  ['/forgot', page('Forgot')],
  ['/reset', page('Reset')],
]

const PAGES: [string, AnyPage][] = [
  ['/', page('Overview')],
  ['/start', page('Start')],
  ['/playground', page('Playground')],
  ['/keys', page('Keys')],
  ['/keys/new', page('KeyNew')],
  ['/keys/:id', page('Key')],
  ['/usage', page('Usage')],
  ['/calls', page('Calls')],
  ['/calls/:id', page('Call')],
  ['/top-up', page('TopUp')],
  ['/payments/:id', page('Payment')],
  ['/methods', page('Methods')],
  ['/ledger', page('Ledger')],
  ['/statements', page('Statements')],
  ['/webhooks', page('Webhooks')],
  ['/webhooks/:id', page('Webhook')],
  ['/security', page('Security')],
  ['/activity', page('Activity')],
  ['/notifications', page('Notifications')],
  ['/account', page('Account')],
  ['/change-email', page('ChangeEmail')],
]

const OPERATE: [string, AnyPage][] = [
  ['/operate', operate('Health')],
  ['/operate/users', operate('Users')],
  ['/operate/users/:id', operate('User')],
  ['/operate/live', operate('Live')],
  ['/operate/verification', operate('Verification')],
  ['/operate/webhooks', operate('Failing')],
  ['/operate/settings', operate('Settings')],
  ['/operate/audit', operate('Audit')],
  ['/operate/revenue', operate('Revenue')],
  ['/operate/usage', operate('UsageOfAll')],
  ['/operate/payments', operate('Payments')],
  ['/operate/payments/:id', operate('PaymentOfAny')],
  ['/operate/margins', operate('Margins')],
  ['/operate/models', operate('Models')],
  ['/operate/prices', operate('Prices')],
  ['/operate/prices/:list', operate('PriceList')],
  ['/operate/prices/:list/:draft', operate('PriceDraft')],
]

const NotFound = page('NotFound')

/** The session has ended if the server says so when it is asked for nothing else. */
function useEnd() {
  const count = ended.value
  useEffect(() => {
    if (count && user.value) get('/api/auth/me').catch((error) => error.status === 401 && signedOut())
  }, [count])
}

function Pages() {
  const [path] = useLocation()
  useEnd()
  const isPublic = PUBLIC.some(([known]) => known === path)
  const who = user.value
  useEffect(() => {
    if (who === null && !isPublic)
      navigate(to('/sign-in', { next: path === '/' ? '' : path + location.search }) + location.hash, {
        replace: true,
      })
  }, [who, isPublic, path])
  if (unreachable.value) {
    return (
      <main class="alone">
        <Failure error={unreachable.value} />
        <p>
          <button type="button" onClick={() => void load()}>
            Try again
          </button>
        </p>
      </main>
    )
  }
  if (isPublic) {
    if (who === undefined) return null
    return (
      <Switch>
        {PUBLIC.map(([known, component]) => (
          <Route key={known} path={known} component={component} />
        ))}
      </Switch>
    )
  }
  if (!who) return null
  return (
    <Shell>
      <Switch>
        {PAGES.map(([known, component]) => (
          <Route key={known} path={known} component={component} />
        ))}
        {isOperator.value
          ? OPERATE.map(([known, component]) => <Route key={known} path={known} component={component} />)
          : null}
        <Route component={NotFound} />
      </Switch>
    </Shell>
  )
}

export function App() {
  return (
    <Router base={ROOT}>
      <Pages />
      <Dialogs />
      <Said />
    </Router>
  )
}
