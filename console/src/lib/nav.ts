// Addresses of pages. The account (live or test) is a part of each, so that a link shows what its sender saw.
import { useLocation, useSearch } from 'wouter-preact'
import { navigate } from 'wouter-preact/use-browser-location'
import { query } from './api'
import { environment } from './session'

export const ROOT = '/console'

/** A page's address, from `/keys`. */
export function to(path: string, values: Record<string, string | number | null | undefined> = {}): string {
  return query(ROOT + path, { ...values, environment: environment.value === 'test' ? 'test' : '' })
}

export const go = (path: string, values: Record<string, string | null | undefined> = {}): void =>
  navigate(to(path, values))

/** The filters of the page, and a way to set some. They stand in its address. */
export function useFilters(): [(name: string) => string, (values: Record<string, string>) => void] {
  const search = new URLSearchParams(useSearch())
  const [path] = useLocation()
  return [
    (name) => search.get(name) ?? '',
    (values) => {
      const next: Record<string, string> = {}
      for (const [name, value] of search) next[name] = value
      navigate(to(path, { ...next, ...values }), { replace: true })
    },
  ]
}
