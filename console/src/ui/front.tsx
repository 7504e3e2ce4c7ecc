// The frame of the pages before one is signed in.
import type { ComponentChildren } from 'preact'
import { useEffect } from 'preact/hooks'
import { settings } from '../lib/session'
import { Logo } from '../shell'
import { Note } from './parts'

const LOCAL = new Set(['localhost', '127.0.0.1', '[::1]'])

export function Front({
  title,
  children,
  foot,
}: {
  title: string
  children: ComponentChildren
  foot?: ComponentChildren
}) {
  useEffect(() => {
    document.title = `${title} · Polysystems`
  }, [title])
  const loses = settings.value?.cookie_is_secure && location.protocol === 'http:' && !LOCAL.has(location.hostname)
  return (
    <main class="front">
      <div class="front-box">
        <p class="front-logo">
          <Logo />
        </p>
        <h1>{title}</h1>
        {loses && (
          <Note tone="warn" title="This page came without encryption">
            Browsers keep no session of such a page, so you cannot sign in. The operator of this server can set{' '}
            <code>server.tls_certificate</code> and <code>server.tls_key</code>, or in a home network{' '}
            <code>console.insecure_cookie</code>.
          </Note>
        )}
        {children}
      </div>
      {foot && <p class="front-foot">{foot}</p>}
    </main>
  )
}
