// A paid call with axios: the key from the environment, the answer on standard output.
const axios = require('axios');

async function main() {
  const body = { messages: [{ role: 'user', content: 'Hello!' }] };
  const headers = { 'X-API-Key': process.env.PS_API_KEY };
  try {
    const answer = await axios.post(`${process.env.PS_API_URL}/api/hub/agents/chat`, body, { headers });
    console.log(JSON.stringify({ status: answer.status, body: answer.data }));
  } catch (error) {
    if (!error.response) throw error;
    console.log(JSON.stringify({ status: error.response.status, body: error.response.data }));
  }
}

main();
