import { Fragment } from 'preact'
import { useData } from '../lib/data'
import { useFilters } from '../lib/nav'
import { Badge, Card, Empty, Page, Select, Shown, Table, Typed } from '../ui/parts'

interface Setting {
  name: string
  value: unknown
  consequence?: string | null
  source: string
  source_name?: string | null
  change: string
}

const SOURCES: Record<string, string> = { default: 'Default', file: 'File', environment: 'Environment' }

function shown(value: unknown): string {
  if (Array.isArray(value)) return value.length ? value.map(shown).join(', ') : '(none)'
  return value === '' ? '(empty)' : String(value)
}

/** A name that a narrow screen breaks after a dot, a slash or an underscore. */
const parts = (name: string) =>
  (name.match(/[^._/]*[._/]*/g) ?? []).map((part, place) => (
    <Fragment key={place}>
      {part}
      <wbr />
    </Fragment>
  ))

/** The settings in force. */
export default function Settings() {
  const [filter, set] = useFilters()
  const settings = useData<{ settings: Setting[] }>('/api/admin/settings')
  const source = filter('source')
  const text = filter('q').toLowerCase()
  return (
    <Page
      title="Settings"
      intro="What this server runs with. A change counts from its next start on; it is made in the file or in the environment, and not here. Secrets are not shown."
    >
      <div class="filters">
        <Typed label="Name" value={filter('q')} type="search" placeholder="server.bind" onGive={(q) => set({ q })} />
        <Select
          label="From"
          value={source}
          of={[['', 'Everywhere'], ...Object.entries(SOURCES)]}
          onChoose={(chosen) => set({ source: chosen })}
        />
      </div>
      <Shown of={settings} rows={12}>
        {(found) => {
          const left = found.settings.filter(
            (one) => (!source || one.source === source) && one.name.toLowerCase().includes(text),
          )
          return (
            <Card>
              {left.length === 0 ? (
                <Empty title="No setting is like this">Look for a part of another name.</Empty>
              ) : (
                <Table
                  label="Settings"
                  items={left}
                  id={(one) => one.name}
                  columns={[
                    { name: 'Setting', cell: (one) => <code>{parts(one.name)}</code> },
                    {
                      name: 'Value',
                      wide: true,
                      cell: (one) =>
                        one.value == null ? (
                          <span class="muted break">not set{one.consequence ? `: ${one.consequence}` : ''}</span>
                        ) : one.value === '[redacted]' ? (
                          <Badge>Set, not shown</Badge>
                        ) : (
                          <span class="break">{shown(one.value)}</span>
                        ),
                    },
                    {
                      name: 'From',
                      cell: (one) => (
                        <>
                          {one.source === 'default' ? (
                            <span class="muted">Default</span>
                          ) : (
                            (SOURCES[one.source] ?? one.source)
                          )}
                          {one.source_name && <span class="muted small block break">{parts(one.source_name)}</span>}
                          {one.change === 'restart_or_file' && (
                            <span class="muted small block">the contents of the file are followed</span>
                          )}
                        </>
                      ),
                    },
                  ]}
                />
              )}
            </Card>
          )
        }}
      </Shown>
    </Page>
  )
}
