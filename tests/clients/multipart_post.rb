# multipart-post, which Faraday sends its forms by: an empty line behind the last delimiter, a length and an encoding
# ("binary") on the file's part.

require "json"
require "net/http/post/multipart"

address = URI("https://files.example.com/v1/files")
file = UploadIO.new("photo.png", "image/png")
request = Net::HTTP::Post::Multipart.new(address.request_uri, { "dir" => "reports", "file" => file })
request["Authorization"] = "Bearer #{ENV.fetch("GATEWAY_KEY")}"
reply = Net::HTTP.start(address.host, address.port, use_ssl: address.scheme == "https") { |http| http.request(request) }
abort("HTTP #{reply.code}: #{reply.body}") unless reply.code == "201"
puts JSON.parse(reply.body)["files"][0]["url"]
