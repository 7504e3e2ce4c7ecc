import { Empty, Link, Page } from '../ui/parts'

export default function NotFound() {
  return (
    <Page title="No such page">
      <Empty
        title="Nothing is at this address"
        action={
          <Link page="/" class="button">
            Overview
          </Link>
        }
      >
        The link may be old, or mistyped.
      </Empty>
    </Page>
  )
}
