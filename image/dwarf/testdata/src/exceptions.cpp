// A whole program with the library of C++ in it: exceptions, templates and
// thousands of names that the library brings.
#include <exception>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

namespace fault {

template <typename Key, typename Value> class Table {
public:
	Value &At(const Key &key)
	{
		auto it = map.find(key);
		if (it == map.end())
			throw std::out_of_range("nothing there");
		return it->second;
	}
	std::map<Key, Value> map;
};

struct Error : std::runtime_error {
	union {
		unsigned long code;
		struct { unsigned short low, high; };
	};
	unsigned severity : 2, facility : 12;
	Error(const char *what, unsigned long code) : std::runtime_error(what), code(code), severity(3), facility(7) {}
	~Error() override = default;
	operator bool() const { return code != 0; }
};

__attribute__((noinline)) int Large(int n)
{
	volatile char room[40000];
	room[n] = (char)n;
	if (n > 3)
		throw Error("large", (unsigned long)n);
	return room[n];
}

__attribute__((noinline)) int Catch(Table<std::string, std::vector<int>> &table, int n)
{
	try {
		return Large(n) + table.At("key").at((size_t)n);
	} catch (const Error &e) {
		return e ? (int)e.low : 0;
	} catch (const std::exception &) {
		try {
			throw;
		} catch (...) {
			return -1;
		}
	}
}

} // namespace fault

int main(int argc, char **)
{
	fault::Table<std::string, std::vector<int>> table;
	table.map["key"] = { 1, 2, argc };
	return fault::Catch(table, argc) + fault::Catch(table, argc + 5);
}
