// The pages of operators, as one script: nobody else reads it.
export { default as Audit } from './audit'
export { default as Health } from './health'
export { default as Margins } from './margins'
export { default as Models } from './models'
export { default as PriceList } from './price-list'
export { default as Prices } from './prices'
export { default as User } from './user'
export { default as Users } from './users'
