// Verifies webhooks with the official library of Standard Webhooks: one JSON object a line on standard input.
const readline = require('readline');
const { Webhook } = require('standardwebhooks');

readline.createInterface({ input: process.stdin }).on('line', (line) => {
  const delivery = JSON.parse(line);
  try {
    console.log(new Webhook(delivery.secret).verify(delivery.body, delivery.headers).type);
  } catch (error) {
    console.log(`refused: ${error.message}`);
  }
});
