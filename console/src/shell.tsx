// What stands around each page: where one can go, which account is shown, who is signed in.
import type { ComponentChildren } from 'preact'
import { useEffect, useRef, useState } from 'preact/hooks'
import { useLocation } from 'wouter-preact'
import { refresh } from './lib/data'
import { to } from './lib/nav'
import { environment, isOperator, settings, signOut, user, type Environment } from './lib/session'
import { chooseTheme, theme, type Theme } from './lib/theme'
import { Link, Segments } from './ui/parts'
import { navigate } from 'wouter-preact/use-browser-location'

const GROUPS: [string, [string, string][]][] = [
  [
    '',
    [
      ['/', 'Overview'],
      ['/start', 'Quick start'],
      ['/playground', 'Playground'],
    ],
  ],
  [
    'Build',
    [
      ['/keys', 'Keys'],
      ['/usage', 'Usage'],
      ['/calls', 'Calls'],
      ['/webhooks', 'Webhooks'],
    ],
  ],
  [
    'Money',
    [
      ['/top-up', 'Top up'],
      ['/methods', 'Payment methods'],
      ['/ledger', 'Ledger'],
      ['/statements', 'Statements'],
    ],
  ],
  [
    'You',
    [
      ['/security', 'Security'],
      ['/activity', 'Activity'],
      ['/notifications', 'Notifications'],
      ['/account', 'Account'],
    ],
  ],
]
const OPERATE: [string, [string, string][]] = [
  'Operate',
  [
    ['/operate', 'Health'],
    ['/operate/live', 'Live'],
    ['/operate/users', 'Users'],
    ['/operate/revenue', 'Revenue'],
    ['/operate/payments', 'Payments'],
    ['/operate/usage', 'Usage'],
    ['/operate/margins', 'Margins'],
    ['/operate/models', 'Models'],
    ['/operate/prices', 'Prices'],
    ['/operate/verification', 'Verification'],
    ['/operate/webhooks', 'Failing webhooks'],
    ['/operate/settings', 'Settings'],
    ['/operate/audit', 'Audit log'],
  ],
]

export function Logo() {
  return (
    <span class="logo">
      <svg viewBox="0 0 32 32" width="24" height="24" aria-hidden="true">
        <rect width="32" height="32" rx="8" class="logo-back" />
        <path d="M9 25V7h8.5a6 6 0 0 1 0 12H13v6z" class="logo-front" />
        <circle cx="17.2" cy="13" r="2.2" class="logo-back" />
      </svg>
      Polysystems
    </span>
  )
}

function Nav({ path, onGo }: { path: string; onGo?: () => void }) {
  const isHere = (page: string) =>
    page === '/' || page === '/operate' ? path === page : path === page || path.startsWith(`${page}/`)
  const groups = isOperator.value ? [...GROUPS, OPERATE] : GROUPS
  return (
    <nav aria-label="Pages" onClick={onGo}>
      {groups.map(([name, pages]) => (
        <div key={name} class="nav-group">
          {name && <p class="nav-name">{name}</p>}
          <ul>
            {pages.map(([page, title]) => (
              <li key={page}>
                <Link
                  page={page}
                  aria-current={
                    isHere(page) || (page === '/top-up' && path.startsWith('/payments')) ? 'page' : undefined
                  }
                >
                  {title}
                </Link>
              </li>
            ))}
          </ul>
        </div>
      ))}
    </nav>
  )
}

function chooseEnvironment(path: string, chosen: Environment) {
  environment.value = chosen
  const values = Object.fromEntries(new URLSearchParams(location.search))
  delete values.environment
  navigate(to(path, values), { replace: true })
  refresh()
}

function Person() {
  const menu = useRef<HTMLDetailsElement>(null)
  useEffect(() => {
    const close = (event: Event) => {
      if (!menu.current?.open) return
      const escaped = event instanceof KeyboardEvent && event.key === 'Escape'
      if (escaped || (event.type === 'click' && !menu.current.contains(event.target as Node))) {
        menu.current.open = false
        if (escaped) menu.current.querySelector('summary')?.focus()
      }
    }
    document.addEventListener('click', close)
    document.addEventListener('keydown', close)
    return () => {
      document.removeEventListener('click', close)
      document.removeEventListener('keydown', close)
    }
  }, [])
  const who = user.value
  if (!who) return null
  return (
    <details class="menu person" ref={menu}>
      <summary aria-label={`Signed in as ${who.username}`}>
        <span class="avatar" aria-hidden="true">
          {[...who.username][0]?.toUpperCase()}
        </span>
      </summary>
      <div class="menu-body">
        <p class="who">
          <strong>{who.username}</strong>
          <span class="muted">{who.email}</span>
        </p>
        <Segments
          label="Colours"
          value={theme.value}
          of={[
            ['system', 'System'],
            ['light', 'Light'],
            ['dark', 'Dark'],
          ]}
          onChoose={(chosen) => chooseTheme(chosen as Theme)}
        />
        <button type="button" onClick={() => void signOut()}>
          Sign out
        </button>
      </div>
    </details>
  )
}

export function Shell({ children }: { children: ComponentChildren }) {
  const [path] = useLocation()
  const [open, setOpen] = useState(false)
  const toggle = useRef<HTMLButtonElement>(null)
  const isTest = environment.value === 'test'
  useEffect(() => setOpen(false), [path])
  const showsAccount =
    !path.startsWith('/operate') && !['/security', '/activity', '/account', '/methods', '/top-up'].includes(path)
  return (
    <div class={`shell ${isTest ? 'is-test' : ''}`}>
      <a class="skip" href="#main">
        Skip to the page
      </a>
      <header class="top">
        <button
          type="button"
          ref={toggle}
          class="burger quiet"
          aria-expanded={open}
          aria-controls="side"
          onClick={() => setOpen(!open)}
        >
          <span aria-hidden="true">☰</span> Menu
        </button>
        <Link page="/" class="home">
          <Logo />
        </Link>
        <span class="grow" />
        {showsAccount && (
          <Segments
            label="Account"
            value={environment.value}
            of={[
              ['live', 'Live'],
              ['test', 'Test'],
            ]}
            onChoose={(chosen) => chooseEnvironment(path, chosen as Environment)}
          />
        )}
        <Person />
      </header>
      <div
        id="side"
        class={`side ${open ? 'open' : ''}`}
        onKeyDown={(event) => {
          if (event.key === 'Escape' && open) {
            setOpen(false)
            toggle.current?.focus()
          }
        }}
      >
        <Nav path={path} onGo={() => setOpen(false)} />
      </div>
      <main id="main" tabIndex={-1}>
        {settings.value?.is_demo && (
          <p class="test-line">
            <strong>This is a demo:</strong> users, calls and payments are made up, and all is deleted when the server
            stops.
          </p>
        )}
        {isTest && showsAccount && (
          <p class="test-line">
            <strong>Test account.</strong> Test keys and test credits; no real money moves here.
          </p>
        )}
        {children}
      </main>
    </div>
  )
}
